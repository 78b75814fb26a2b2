"""A stack of equal layers: parameters on a leading axis `layer`, run by scan or unrolled, recomputed or not.

Unrolling is a choice of speed against compile time, made from depth and backend; the values are the same by law.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core.types import Array, Params
from llm_jax.mesh import plan

UNROLLED_ON_CPU = 12  # layers; deeper stacks compile longer than the faster step is worth
_POLICIES = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}

Layer = Callable[[Params, Array, Any, Any], tuple[Array, Any]]


def unroll_by_default(layers: int) -> bool:
    """Whether a stack of this depth is unrolled: few layers, on CPU, where a loop costs copies.

    What is to be recomputed stays in a loop: outside of one the CPU compiler merges it with its first computation.
    """
    active, cpu = plan.current(), jax.default_backend() == "cpu"
    return layers <= UNROLLED_ON_CPU and cpu and active.mesh is None and active.remat == "none"


def stack(
    layer: Layer, params: Params | tuple[Params, ...], x: Array, carried: Any = None, *, unroll: bool | None = None
) -> tuple[Array, Any]:
    """Return (x, carried) after all layers.

    Args:
        layer: (params of one layer, x, layer index, carried) -> (x, carried).
        params: a tree with a leading layer axis, or a tuple of per-layer trees (see `unstack`).
        carried: what passes through all layers beside x, such as a cache; or None.
        unroll: default `unroll_by_default`.
    """
    each = params if isinstance(params, tuple) else None
    if each is None and (unroll_by_default(_depth(params)) if unroll is None else unroll):
        each = unstack(params)
    remat = plan.current().remat
    if remat != "none":
        static = () if each is None else (2,)
        layer = jax.checkpoint(layer, policy=_POLICIES[remat], prevent_cse=each is not None, static_argnums=static)
    if each is None:
        return _scan(layer, params, x, carried)
    for index, one in enumerate(each):
        x, carried = layer(one, x, index, carried)
    return x, carried


def _depth(params: Any) -> int:
    return jax.tree.leaves(params)[0].shape[0]


def _scan(layer: Layer, params: Any, x: Array, carried: Any) -> tuple[Array, Any]:
    def body(state: tuple[Array, Any], each: tuple[Params, Array]) -> tuple[tuple[Array, Any], None]:
        return layer(each[0], state[0], each[1], state[1]), None

    return jax.lax.scan(body, (x, carried), (params, jnp.arange(_depth(params))))[0]


def unstack(params: Any) -> tuple[Params, ...]:
    """Return the layers of a stacked tree one by one; the gradient is one stack, not a sum of padded slices."""
    leaves, structure = jax.tree.flatten(params)
    columns = [_rows(leaf) for leaf in leaves]
    return tuple(jax.tree.unflatten(structure, row) for row in zip(*columns, strict=True))


@jax.custom_vjp
def _rows(x: Array) -> tuple[Array, ...]:
    return tuple(x[i] for i in range(x.shape[0]))


_rows.defvjp(lambda x: (_rows(x), None), lambda _, rows: (jnp.stack(rows),))
