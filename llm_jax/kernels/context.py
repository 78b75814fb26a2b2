"""Attention of texts that a mesh splits along their length: by a ring, or by exchanging heads for tokens.

A plan that splits `seq` says which (`context_by`); models ask for `auto` and do not know.
"""

from functools import partial
from typing import Any

import jax
from jaxtyping import Array, Bool, Float, Int

from llm_jax.core.table import UserError, lookup
from llm_jax.kernels import CONTEXT, attention, fused
from llm_jax.kernels.zigzag import Axis
from llm_jax.mesh import plan
from llm_jax.mesh.place import axes_of, free, place, spec

HEADS = ("batch", "seq", "act_heads", None)


def auto(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S G K"],
    v: Float[Array, "B S G V"],
    *,
    segments: attention.Segments | None = None,
    sinks: Float[Array, "H"] | None = None,
    prefix: Bool[Array, "B S"] | None = None,
    **options: Any,
) -> Float[Array, "B T H V"]:
    """Return what `attention.plain` returns: with tokens split over devices by the plan's way, else by one device's.

    What follows a cache is not split: its keys are whole on each device.
    """
    rows = spec(*HEADS, shape=q.shape)
    follows = k.shape[1] != q.shape[1] or options.keys() & {"offset", "slots"}
    if rows is None or not axes_of(rows[1]) or follows:
        return fused.auto(q, k, v, segments=segments, sinks=sinks, prefix=prefix, **options)
    parts = plan.current().shards("act_heads", q.shape[2])  # heads that share a key may lie on several devices
    k, v = (place(attention.split_heads(x, parts), *HEADS) for x in (k, v))
    tokens, early = (None if x is None else place(x, "batch", "seq") for x in (segments and segments[0], prefix))
    lone = None if sinks is None else place(sinks, "act_heads")
    text = spec("batch", "seq", shape=q.shape[:2])
    way = lookup(CONTEXT, plan.current().context_by, "mesh.context_by")
    island = jax.shard_map(
        partial(way, axis=axes_of(rows[1]), **options),
        in_specs=(rows, rows, rows, text, spec("act_heads", shape=q.shape[2:3]), text),
        out_specs=rows,
        axis_names=free(),
        check_vma=False,
    )
    return island(place(q, *HEADS), k, v, tokens, lone, early)


def heads(
    q: Float[Array, "B L H K"],
    k: Float[Array, "B L G K"],
    v: Float[Array, "B L G V"],
    segments: Int[Array, "B L"] | None = None,
    sinks: Float[Array, "H"] | None = None,
    prefix: Bool[Array, "B L"] | None = None,
    *,
    axis: Axis,
    **options: Any,
) -> Float[Array, "B L H V"]:
    """Return what `ring` returns, by exchanging all tokens of a share of the heads (DeepSpeed Ulysses, Jacobs 2023).

    Raises:
        UserError: the heads of a device do not divide.
    """
    size = jax.lax.axis_size(axis)
    check_heads(q.shape[2], size)
    k, v = (attention.split_heads(x, size) for x in (k, v))
    q, k, v = (jax.lax.all_to_all(x, axis, split_axis=2, concat_axis=1, tiled=True) for x in (q, k, v))
    if segments is not None:
        whole = jax.lax.all_gather(segments, axis, axis=1, tiled=True)
        options["segments"] = (whole, whole)
    if prefix is not None:
        options["prefix"] = jax.lax.all_gather(prefix, axis, axis=1, tiled=True)
    if sinks is not None:
        share = sinks.shape[0] // size
        options["sinks"] = jax.lax.dynamic_slice_in_dim(sinks, jax.lax.axis_index(axis) * share, share)
    y = fused.auto(q, k, v, **options)
    return jax.lax.all_to_all(y, axis, split_axis=1, concat_axis=2, tiled=True)


def check_heads(heads: int, size: int) -> None:
    """Refuse an exchange of heads that do not divide.

    Raises:
        UserError: names the numbers that do.
    """
    if heads % size:
        fitting = [n for n in range(1, heads + 1) if heads % n == 0]
        near = min(fitting, key=lambda n: (abs(n - size), n))
        raise UserError(
            f"mesh.context={size} with mesh.context_by='heads' does not divide the {heads} heads of a device; "
            f"try mesh.context={near}, or mesh.context_by='ring', which takes any number"
        )
