"""The whole optimizer: clip by the global norm, a direction from the table, decoupled decay, the rate of the step.

Clipping multiplies by one scalar, min(1, clip_norm/|g|), which XLA fuses into the update; `optax.clip_by_global_norm`
selects and divides element by element, and clip + AdamW then take about twice the time on a CPU.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from llm_jax.core import tree
from llm_jax.core.table import UserError, lookup
from llm_jax.core.types import Array, Params
from llm_jax.optim import OPTIMIZERS, SCHEDULES, masks
from llm_jax.optim.options import accepted, check, check_values
from llm_jax.optim.schedules import Schedule


def transformation(
    name: str,
    rate: Schedule | float,
    *,
    weight_decay: float = 0.0,
    decay_exclude: Sequence[str] | None = None,
    clip_norm: float | None = None,
    freeze: Sequence[str] = (),
    layer_decay: float | None = None,
    stacks: Mapping[str, Sequence[int]] | None = None,
    groups: Mapping[str, float] = MappingProxyType({}),
    **options: Any,
) -> optax.GradientTransformation:
    """Return the optimizer `name` whole: its updates are added to the parameters as they are.

    Args:
        name: a member of `OPTIMIZERS`.
        rate: a function of the optimizer's own step count, from 0 (see `schedule`), or a constant.
        weight_decay: decoupled, and multiplied by the rate: θ ← θ - rate · weight_decay · θ.
        decay_exclude: which leaves do not decay (`masks.decay`); None for the usual rule, no vectors.
        clip_norm: the largest global norm of the gradients, frozen leaves left out; None for no clipping.
        freeze: regular expressions of paths that never change, and have no optimizer state.
        layer_decay: each layer's rate is that of the next one times this, and embeddings' that of the first layer:
            lower ones know more of what stays true of another text (Howard and Ruder 2018, arXiv:1801.06146, there 1 /
            2.6; Clark et al. 2020, arXiv:2003.10555). None for one rate.
        stacks: where layers are in several stacks, see `masks.depths`.
        groups: regular expression of paths -> by what the rate of those leaves is multiplied, as where two players
            learn at rates of their own (Heusel et al. 2017, arXiv:1706.08500).
        options: the direction's own; `options.accepted(name)` lists them.

    Raises:
        UserError: an unknown name or option, or a value out of range; from `init`, a pattern that matches nothing.
    """
    direction = lookup(OPTIMIZERS, name, "optimizer.name")
    check(name, options, accepted(name))
    check_values(weight_decay=weight_decay, decay_exclude=decay_exclude, clip_norm=clip_norm, freeze=freeze)
    check_values(layer_decay=layer_decay, groups=groups)
    if not callable(rate):
        check_values(learning_rate=rate)
    if name == "adam" and weight_decay:
        raise UserError(f"optimizer.weight_decay={weight_decay}: 'adam' does not decay; choose optimizer.name='adamw'")
    decays = optax.add_decayed_weights(weight_decay, lambda params: masks.decay(params, decay_exclude))
    tx = optax.named_chain(
        ("clip", optax.identity() if clip_norm is None else clip(clip_norm)),
        ("direction", direction(**options)),
        ("decay", decays if weight_decay else optax.identity()),
        ("rate", optax.scale_by_learning_rate(rate)),
        *([] if layer_decay is None else [("layers", layerwise(layer_decay, stacks))]),
        *([("groups", grouped(groups))] if groups else []),
    )
    return frozen(tx, freeze) if freeze else tx


def schedule(name: str, learning_rate: float, total_steps: int | None = None, **options: Any) -> Schedule:
    """Return the schedule `name` of `SCHEDULES`: step -> rate, with the peak `learning_rate`.

    Args:
        name: a member of `SCHEDULES`.
        learning_rate: the peak.
        total_steps: the length of training, for the schedules that end; None when it is not known in steps.
        options: `warmup_steps` and what else the member takes; `options.accepted(name, SCHEDULES)` lists them.

    Raises:
        UserError: an unknown name or option, a value out of range, or phases longer than the training.
    """
    member = lookup(SCHEDULES, name, "optimizer.schedule.name")
    known = accepted(name, SCHEDULES)
    check(name, options, known, "optimizer.schedule")
    check_values(learning_rate=learning_rate, total_steps=total_steps)
    if "end_fraction" not in known:
        return member(learning_rate, **options)
    if total_steps is None:
        raise UserError(
            f"optimizer.schedule.name={name!r} needs a length in steps; choose 'constant' or 'inverse_sqrt'"
        )
    phases = {key: options[key] for key in ("warmup_steps", "decay_steps") if options.get(key)}
    if sum(phases.values()) > total_steps:
        sizes = " + ".join(f"optimizer.schedule.{key}={value}" for key, value in phases.items())
        raise UserError(
            f"{sizes} is longer than the training of {total_steps} steps; shorten it, or "
            f"lengthen train.duration, such as to '{20 * sum(phases.values())} steps'"
        )
    return member(learning_rate, total_steps, **options)


def global_norm(gradients: Any) -> Array:
    """Return the Euclidean norm over all leaves, in float32."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(g.astype(jnp.float32))) for g in jax.tree.leaves(gradients)))


def clip(max_norm: float) -> optax.GradientTransformation:
    """Return g -> g · min(1, max_norm/|g|), over all leaves together.

    Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", arXiv:1211.5063.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        scale = max_norm / jnp.maximum(global_norm(updates), max_norm)
        return jax.tree.map(lambda g: g * scale.astype(g.dtype), updates), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def layerwise(factor: float, stacks: Mapping[str, Sequence[int]] | None = None) -> optax.GradientTransformation:
    """Return u -> u · factor^depth, leaf by leaf and layer by layer (`masks.depths`)."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        depths = masks.depths(updates, stacks)
        return jax.tree.map(lambda u, depth: u * jnp.asarray(factor**depth, u.dtype), updates, depths), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def grouped(groups: Mapping[str, float]) -> optax.GradientTransformation:
    """Return u -> u · factor of the leaf's group (`masks.factors`)."""

    def init(params: Any) -> Any:
        masks.factors(params, groups)
        return optax.init_empty_state(params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        factors = masks.factors(updates, groups)
        return jax.tree.map(lambda u, factor: u * jnp.asarray(factor, u.dtype), updates, factors), state

    return optax.GradientTransformation(init, update)


def frozen(tx: optax.GradientTransformation, patterns: Sequence[str]) -> optax.GradientTransformation:
    """Return `tx` on the leaves whose path matches none of `patterns`; the others get zero updates and no state."""

    def labels(params: Any) -> Any:
        return jax.tree.map(
            lambda out: "frozen" if out else "trained", masks.matching(params, patterns, "optimizer.freeze")
        )

    return optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, labels)


def state_shardings(tx: optax.GradientTransformation, params: Params, shardings: Any, replicated: Sharding) -> Any:
    """Return the shardings of `tx.init(params)`, for `out_shardings`; see `alike`."""
    return alike(jax.eval_shape(tx.init, params), params, shardings, replicated)


def alike(part: Any, params: Params, shardings: Any, replicated: Any, workers: tuple[Any, ...] = ()) -> Any:
    """Return the shardings of a tree that holds things of the parameters.

    A leaf that belongs to a parameter (its path ends in the parameter's) is placed like it, axis by axis; an axis that
    was averaged away to size 1 is not split. Counts and the like are `replicated`.

    Args:
        part: the tree, abstract leaves will do.
        params: the parameters, abstract ones will do.
        shardings: a tree of NamedShardings of the same structure.
        replicated: where the rest goes.
        workers: the entry of a PartitionSpec for the leading axis that every leaf of `part` has beside; () for none.
    """
    shapes = {path: leaf.shape for path, leaf in tree.flatten(params).items()}
    places = tree.flatten(shardings)

    def place(path: str, leaf: Array) -> Any:
        parts, shape = path.split("/"), leaf.shape[len(workers) :]
        owner = next((s for i in range(len(parts)) if (s := "/".join(parts[i:])) in shapes), None)
        own: Any = (_reduced(places[owner], shapes[owner], shape) or replicated) if owner else replicated
        return NamedSharding(own.mesh, PartitionSpec(*workers, *own.spec)) if workers else own

    return tree.map_with_path(place, part)


def _reduced(sharding: Any, whole: tuple[int, ...], shape: tuple[int, ...]) -> Sharding | None:
    """Return `sharding` without the axes that have shrunk to 1, or None when the shapes do not belong together.

    Fewer layers than the whole are a fragment of a stack, whose layers no mesh axis splits.
    """
    if shape == whole or (shape[1:] == whole[1:] and not (sharding.spec or (None,))[0]):
        return sharding
    if len(shape) != len(whole) or any(n not in (1, m) for n, m in zip(shape, whole, strict=True)):
        return None
    spec = [*sharding.spec, *[None] * (len(shape) - len(sharding.spec))]
    kept = [axis if n == m else None for axis, n, m in zip(spec, shape, whole, strict=True)]
    return NamedSharding(sharding.mesh, PartitionSpec(*kept), memory_kind=sharding.memory_kind)
