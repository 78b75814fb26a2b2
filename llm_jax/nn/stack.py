"""Stacks of equal layers: parameters on a leading axis `layer`, run by scan or unrolled, recomputed or not.

Unrolling is a choice of speed against compile time, made from depth and backend; the values are the same by law.
Layers of one kind are one stack. The order of several kinds falls into runs of a repeating pattern (three dense layers,
then 58 with experts; local and global in turn), and each run is one loop, or a pipeline where the plan has stages.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from llm_jax.core.types import Array, Key, Params
from llm_jax.mesh import pipeline, plan
from llm_jax.mesh import remat as remats

# (params of one layer, x, where, layer index, carried, key) -> (x, carried)
Layer = Callable[[Params, Array, Any, Any, Any, Key | None], tuple[Array, Any]]
Run = tuple[int, tuple[str, ...], int]  # first layer, kinds of a pattern, how often it repeats


def unroll_by_default(layers: int) -> bool:
    """Whether a stack of this depth is unrolled: few layers, on CPU, where a loop costs copies.

    What is to be recomputed stays in a loop: outside of one the CPU compiler merges it with its first computation.
    """
    active, cpu = plan.current(), jax.default_backend() == "cpu"
    return layers <= active.unrolled and cpu and active.mesh is None and active.remat == "none"


def stack(
    layer: Layer,
    params: Params | tuple[Params, ...],
    x: Array,
    where: Any,
    carried: Any = None,
    key: Key | None = None,
    *,
    whole: bool = False,
    unroll: bool | None = None,
) -> tuple[Array, Any]:
    """Return (x, carried) after all layers.

    What a layer knows of the batch comes by its arguments, so that a pipeline can give it a part of the batch.

    Args:
        layer: (params of one layer, x, where, layer index, carried, key) -> (x, carried).
        params: a tree with a leading layer axis, or a tuple of per-layer trees (see `unstack`).
        where: what layers read of the batch beside x: a tree of arrays [B, ...].
        carried: what passes through all layers beside x, such as a cache; sums to which they add, where `whole`; None.
        key: of dropout; in a pipeline each part of the batch has its own.
        whole: whether these are whole texts and there is no cache: then stages of the plan make a pipeline.
        unroll: default `unroll_by_default`.
    """
    each = params if isinstance(params, tuple) else None
    if each is None and (unroll_by_default(_depth(params)) if unroll is None else unroll):
        each = unstack(params)
    remat, offload = plan.current().remat, plan.current().offload
    if remat != "none":
        static = () if each is None else (3,)
        policy = remats.policy(remat, offload)
        layer = jax.checkpoint(_named(layer), policy=policy, prevent_cse=each is not None, static_argnums=static)
    if each is None:
        schedule = pipeline.flow(_depth(params), x.shape[0]) if whole else None
        if schedule is not None:
            return pipeline.pipeline(partial(_scan, layer), params, x, where, carried, key, schedule)
        return _scan(layer, params, x, where, 0, carried, key)
    for index, one in enumerate(each):
        x, carried = layer(one, x, where, index, carried, key)
    return x, carried


def _named(layer: Layer) -> Layer:
    """The layer whose input has a name inside of what is computed again: only so can it wait in the host's memory."""

    def run(params: Params, x: Array, *rest: Any) -> tuple[Array, Any]:
        return layer(params, checkpoint_name(x, remats.LAYER_INPUT), *rest)

    return run


def _depth(params: Any) -> int:
    return jax.tree.leaves(params)[0].shape[0]


def _scan(
    layer: Layer, params: Any, x: Array, where: Any, first: Any, carried: Any, key: Key | None
) -> tuple[Array, Any]:
    def body(state: tuple[Array, Any], each: tuple[Params, Array]) -> tuple[tuple[Array, Any], None]:
        return layer(each[0], state[0], where, each[1], state[1], key), None

    return jax.lax.scan(body, (x, carried), (params, first + jnp.arange(_depth(params))))[0]


def unstack(params: Any) -> tuple[Params, ...]:
    """Return the layers of a stacked tree one by one; the gradient is one stack, not a sum of padded slices."""
    leaves, structure = jax.tree.flatten(params)
    columns = [_rows(leaf) for leaf in leaves]
    return tuple(jax.tree.unflatten(structure, row) for row in zip(*columns, strict=True))


@jax.custom_vjp
def _rows(x: Array) -> tuple[Array, ...]:
    return tuple(x[i] for i in range(x.shape[0]))


_rows.defvjp(lambda x: (_rows(x), None), lambda _, rows: (jnp.stack(rows),))


def through(
    kinds: tuple[str, ...],
    layer: Callable[..., tuple[Array, Any]],
    params: Params,
    x: Array,
    where: Any,
    carried: Any = None,
    key: Key | None = None,
    *,
    whole: bool = False,
) -> tuple[Array, Any]:
    """Return (x, carried) after layers of several kinds.

    Args:
        kinds: of each layer in order.
        layer: (kind, params of one layer, x, where, layer index, carried, key) -> (x, carried).
        params: for each kind, the stack of its layers (or a tuple of them).
        where, carried, key, whole: as in `stack`.
    """
    for first, pattern, repeats in runs(kinds):

        def repeat(p: Params, x: Array, where: Any, index: Any, carried: Any, key: Any, first=first, pattern=pattern):
            for place, kind in enumerate(pattern):
                number = first + index * len(pattern) + place
                x, carried = layer(kind, p[str(place)], x, where, number, carried, key)
            return x, carried

        parts: Any = {str(i): _part(kinds, params, (first, pattern, repeats), i) for i in range(len(pattern))}
        if any(isinstance(part, tuple) for part in parts.values()):
            rows = {i: part if isinstance(part, tuple) else unstack(part) for i, part in parts.items()}
            parts = tuple({i: row[n] for i, row in rows.items()} for n in range(repeats))
        x, carried = stack(repeat, parts, x, where, carried, key, whole=whole)
    return x, carried


def _part(kinds: tuple[str, ...], params: Params, run: Run, place: int) -> Any:
    """The layers at one place of a run's pattern, of the stack of their kind (or of its layers one by one)."""
    first, pattern, repeats = run
    kind, each = pattern[place], pattern.count(pattern[place])
    before, among = kinds[:first].count(kind), pattern[:place].count(kind)
    if isinstance(params[kind], tuple):
        return params[kind][before + among : before + repeats * each : each]
    if repeats == kinds.count(kind):
        return params[kind]

    def chosen(leaf: Array) -> Array:
        # Not leaf[::each]: of a stack that is split over stages, each has whole patterns, and keeps to them.
        return leaf[before : before + repeats * each].reshape(repeats, each, *leaf.shape[1:])[:, among]

    return jax.tree.map(chosen, params[kind])


def runs(kinds: tuple[str, ...]) -> list[Run]:
    """Split layers into runs: from each place the pattern that covers most by repeating, the shortest such."""
    found, first = [], 0
    while first < len(kinds):
        rest, best = kinds[first:], (1, 1)
        for period in range(1, len(rest) // 2 + 1):
            repeats = 1
            while rest[period * repeats : period * (repeats + 1)] == rest[:period]:
                repeats += 1
            if repeats > 1 and period * repeats > best[0] * best[1]:
                best = period, repeats
        found.append((first, rest[: best[0]], best[1]))
        first += best[0] * best[1]
    return found
