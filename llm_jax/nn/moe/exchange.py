"""Rows that travel to the devices that hold their experts, and back: an all-to-all of unequal parts.

Lepikhin et al. 2020 (GShard) exchange parts of a fixed capacity and drop what is above; here no row is dropped.
`counts[s, d]` is how many rows device s of the axis sends to device d. Each device's rows stand one destination after
the other, and those that it receives one source after the other; what follows them is nobody's, and zero on arrival.
The way back is the same exchange with `counts` transposed. Inside `shard_map` only.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def dense(
    rows: Float[Array, "N D"], counts: Int[Array, "S S"], axis: Any, *, length: int, most: int
) -> Float[Array, "M D"]:
    """Return the rows that this device receives, M = length of them, by an all-to-all of `most` rows a pair.

    Args:
        rows: those that it sends.
        counts: of every pair, the same on all devices of `axis`.
        axis: the mesh axis of S devices.
        length: of the result.
        most: the largest number of rows that can go from one device to another.
    """
    me, devices = jax.lax.axis_index(axis), counts.shape[0]
    slot = jnp.arange(most)
    sent = jnp.where(slot < counts[me][:, None], _starts(counts[me])[:, None] + slot, rows.shape[0])
    parts = rows.at[sent].get(mode="fill", fill_value=0)
    received = jax.lax.all_to_all(parts, axis, split_axis=0, concat_axis=0).reshape(devices * most, -1)
    source, place = owners(counts[:, me], length), jnp.arange(length)
    start = _starts(counts[:, me]).at[source].get(mode="fill", fill_value=0)
    taken = jnp.where(source < devices, source * most + place - start, devices * most)
    return received.at[taken].get(mode="fill", fill_value=0)


def ragged(
    rows: Float[Array, "N D"], counts: Int[Array, "S S"], axis: Any, *, length: int, most: int
) -> Float[Array, "M D"]:
    """Return what `dense` returns, moving no more than the rows there are: an operation that CPUs do not have."""
    me = jax.lax.axis_index(axis)
    before = jnp.cumsum(counts, axis=0) - counts  # where on the receiver the rows of each source begin
    empty = jnp.zeros((length, *rows.shape[1:]), rows.dtype)
    return jax.lax.ragged_all_to_all(
        rows, empty, _starts(counts[me]), counts[me], before[me], counts[:, me], axis_name=axis
    )


def auto(
    rows: Float[Array, "N D"], counts: Int[Array, "S S"], axis: Any, *, length: int, most: int
) -> Float[Array, "M D"]:
    """`dense` on CPU, `ragged` elsewhere."""
    chosen = dense if jax.default_backend() == "cpu" else ragged
    return chosen(rows, counts, axis, length=length, most=most)


def owners(sizes: Int[Array, "G"], length: int) -> Int[Array, "M"]:
    """Return for each of `length` rows in groups of `sizes` the number of its group, G where there is none."""
    return jnp.searchsorted(jnp.cumsum(sizes), jnp.arange(length), side="right").astype(jnp.int32)


def _starts(sizes: Int[Array, "G"]) -> Int[Array, "G"]:
    return jnp.cumsum(sizes) - sizes
