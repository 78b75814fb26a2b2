"""Workers: replicas on a leading axis, laid out over the mesh axes of the logical axis `worker`.

A worker keeps to itself: what runs inside `each` does not see those mesh axes, so that its batch, its sums and its
gathers stay among the devices of one worker. With no mesh, or fewer devices than workers, several share a device.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from llm_jax.mesh import plan


def groups(outer: plan.Plan) -> int:
    """Return over how many groups of devices workers are laid out."""
    return 1 if outer.mesh is None else math.prod(outer.mesh.shape.get(a, 1) for a in outer.rules["worker"])


def inside(outer: plan.Plan) -> plan.Plan:
    """Return the plan of one worker: no logical axis is laid out over the mesh axes of `worker`."""
    taken = set(outer.rules["worker"])
    return replace(outer, rules={name: tuple(a for a in axes if a not in taken) for name, axes in outer.rules.items()})


def each(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` over trees whose every leaf has a leading axis of workers, as have its results."""

    def mapped(*trees: Any) -> Any:
        active = plan.current()
        with plan.read(inside(active)):
            return jax.vmap(function, spmd_axis_name=active.spec(("worker",))[0])(*trees)

    return mapped


def spread(tree: Any) -> Any:
    """Lay the leading axis of every leaf out over the workers, and leave the others as they are."""
    active = plan.current()
    axes = active.spec(("worker",))[0]
    if active.mesh is None or axes is None:
        return tree

    def laid(x: jax.Array) -> jax.Array:
        rest = [P.UNCONSTRAINED] * (x.ndim - 1)
        return jax.lax.with_sharding_constraint(x, NamedSharding(jax.sharding.get_abstract_mesh(), P(axes, *rest)))

    return jax.tree.map(laid, tree)
