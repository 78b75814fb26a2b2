"""What a decoder remembers of the text so far: an explicit argument and result, never a mutable collection.

All rows of a batch end at the same slot (prompts are right-aligned), so that writing is one contiguous update. Heads
stand before slots, so that one token's scores are plain products of matrices with vectors, with no transposed copy.
"""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from llm_jax.mesh import plan
from llm_jax.mesh.place import place
from llm_jax.nn.stack import unroll_by_default

_NAMES = (None, "batch", "act_heads", None, None)
Store = Float[Array, "L B G S K"] | tuple[Float[Array, "*BG S K"], ...]


class Seen(NamedTuple):
    """What one layer sees of the past, the tokens just written included; S slots in any order.

    valid: which hold a token. positions: of these in their text. slots: their numbers (below 0 for none), or None when
    they count from 0.
    """

    keys: Float[Array, "B S G K"]
    values: Float[Array, "B S G K"]
    valid: Bool[Array, "B S"]
    positions: Int[Array, "B S"]
    slots: Int[Array, "S"] | None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Past:
    """Keys and values of past tokens, for all layers: of every token, or of the last ones where a window sees no more.

    stores: {S: (keys, values)} of the layers that keep S tokens, in their order. Where S is less than all slots, they
    are a ring: slot s is kept at s modulo S. Keys and values are [L,B,G,S,K]; where the layers are unrolled, a tuple of
    L arrays [B,G,S,K] without a B or G of 1: XLA's CPU backend reads these in place, while it would copy a layer out
    of the whole, and everything to drop a 1.
    valid: which of all slots hold a token. length: slots written so far. position: of each row's next token.
    rows: the place of each layer among those that keep as many.
    """

    stores: dict[int, tuple[Store, Store]]
    valid: Bool[Array, "B S"]
    length: Int[Array, ""]
    position: Int[Array, "B"]
    rows: tuple[int, ...] = field(metadata={"static": True})

    def reserve(self, real: Bool[Array, "B T"]) -> "Past":
        """Mark the next T slots as holding tokens where `real`; to be called before the layers write them."""
        return replace(self, valid=jax.lax.dynamic_update_slice(self.valid, real, (0, self.length)))

    def write(
        self, layer: int | Array, k: Float[Array, "B T G K"], v: Float[Array, "B T G K"], window: int | None = None
    ) -> "Past":
        """Put one layer's new keys and values into the next T slots."""
        kept, row = self._kept(window), self._row(layer)
        put = _put if kept == self.valid.shape[1] else _put_in_ring
        keys, values = (put(s, row, new, self.length) for s, new in zip(self.stores[kept], (k, v), strict=True))
        return replace(self, stores={**self.stores, kept: (keys, values)})

    def read(self, layer: int | Array, window: int | None = None) -> tuple[Array, Array]:
        """Return one layer's keys and values, [B,S,G,K] each."""
        kept, row, rows = self._kept(window), self._row(layer), len(self.valid)
        keys, values = (layer_of(store, row).reshape(rows, -1, kept, store[0].shape[-1]) for store in self.stores[kept])
        return jnp.swapaxes(keys, 1, 2), jnp.swapaxes(values, 1, 2)

    def follow(
        self, layer: int | Array, k: Float[Array, "B T G K"], v: Float[Array, "B T G K"], window: int | None = None
    ) -> "tuple[Past, Seen]":
        """Write one layer's new keys and values, and return what their queries may see.

        Of a ring, one token takes the place of that which leaves the window; of more, the first still see what the
        last take the places of, so that they stand behind the ring as it was.
        """
        kept, T, written = self._kept(window), k.shape[1], self.write(layer, k, v, window)
        if kept == self.valid.shape[1]:
            return written, self._seen(*written.read(layer), None)
        if T == 1:
            return written, self._seen(*written.read(layer, window), _last(kept, self.length + 1))
        keys, values = (
            jnp.concatenate([old, new.astype(old.dtype)], axis=1)
            for old, new in zip(self.read(layer, window), (k, v), strict=True)
        )
        slots = jnp.concatenate([_last(kept, self.length), self.length + jnp.arange(T)])
        return written, self._seen(keys, values, slots)

    def advance(self, real: Bool[Array, "B T"]) -> "Past":
        """Count the T slots as written."""
        return replace(self, length=self.length + real.shape[1], position=self.position + real.sum(1, dtype=jnp.int32))

    def take(self, rows: Int[Array, "N"]) -> "Past":
        """Return the cache of these rows, in this order; a row may come more than once, or not at all."""
        before, after = len(self.valid), len(rows)

        def taken(part: Array) -> Array:
            """A layer's [B,G,S,K], of which a B or G of 1 is left out."""
            found = jnp.take(part if before > 1 else part[None], rows, axis=0)
            return found if after > 1 else found[0]

        def chosen(store: Store) -> Store:
            return tuple(map(taken, store)) if isinstance(store, tuple) else jnp.take(store, rows, axis=1)

        stores = {kept: (chosen(keys), chosen(values)) for kept, (keys, values) in self.stores.items()}
        valid, position = (jnp.take(part, rows, axis=0) for part in (self.valid, self.position))
        return replace(self, stores=stores, valid=valid, position=position)

    reorder = take  # a cache that keeps a source too does less where rows change places with others of the same source

    def _seen(self, keys: Array, values: Array, slots: Array | None) -> Seen:
        valid = self.valid if slots is None else jnp.take(self.valid, jnp.maximum(slots, 0), axis=1)
        numbers = jnp.arange(valid.shape[1]) if slots is None else slots
        return Seen(keys, values, valid, numbers - (self.length - self.position)[:, None], slots)

    def _kept(self, window: int | None) -> int:
        return min(window or self.valid.shape[1], self.valid.shape[1])

    def _row(self, layer: int | Array) -> int | Array:
        if len(self.stores) == 1:
            return layer
        return self.rows[layer] if isinstance(layer, int) else jnp.asarray(self.rows)[layer]


def _last(kept: int, length: Int[Array, ""]) -> Int[Array, "S"]:
    """The slot that each place of a ring holds of a text of so many; below 0 for none."""
    return length - 1 - (length - 1 - jnp.arange(kept)) % kept


def _put(store: Store, row: int | Array, new: Float[Array, "B T G K"], slot: int | Int[Array, ""]) -> Store:
    heads_first = jnp.swapaxes(new, 1, 2)
    if not isinstance(store, tuple):
        return jax.lax.dynamic_update_slice(store, heads_first[None].astype(store.dtype), (row, 0, 0, slot, 0))
    old = store[row]
    update = heads_first.reshape(*old.shape[:-2], *heads_first.shape[-2:]).astype(old.dtype)
    written = jax.lax.dynamic_update_slice_in_dim(old, update, slot, axis=old.ndim - 2)
    return (*store[:row], written, *store[row + 1 :])


def _put_in_ring(store: Store, row: int | Array, new: Float[Array, "B T G K"], length: Int[Array, ""]) -> Store:
    """Put tokens where the slots are kept that follow `length`: of more tokens than places, the last ones."""
    B, T, G, K = new.shape
    kept = store[0].shape[-2]
    if T == 1:
        return _put(store, row, new, length % kept)
    number = (_last(kept, length + T) - length)[None, :, None, None]  # of the new token at each place, below 0 the old
    old = jnp.swapaxes(layer_of(store, row).reshape(B, G, kept, K), 1, 2)
    fresh = jnp.take(new, jnp.maximum(number[0, :, 0, 0], 0), axis=1)
    return _put(store, row, jnp.where(number >= 0, fresh.astype(old.dtype), old), 0)


def layer_of(store: Any, row: int | Array) -> Any:
    """Return a layer of what is kept of each: L arrays, or one array [L,...]."""
    return store[row] if isinstance(row, int) else jax.lax.dynamic_index_in_dim(store, row, keepdims=False)


def full(
    layers: int, batch_size: int, max_len: int, kv_heads: int, head_dim: int, value_dim: int | None = None
) -> Past:
    """Return an empty cache for `max_len` tokens in the plan's compute dtype; values are as long as keys by default."""
    return windowed((None,) * layers, batch_size, max_len, kv_heads, head_dim, value_dim)


def windowed(
    windows: tuple[int | None, ...],
    batch_size: int,
    max_len: int,
    kv_heads: int,
    head_dim: int,
    value_dim: int | None = None,
) -> Past:
    """Return such a cache for layers of which each sees so many tokens, or all where None."""
    dtype, unrolled = plan.current().compute_dtype, unroll_by_default(len(windows))
    kept = [min(window or max_len, max_len) for window in windows]

    def empty(layers: int, slots: int, size: int) -> Store:
        shape = (batch_size, kv_heads, slots, size)
        if unrolled:
            lead = [n for n in shape[:2] if n > 1]
            return tuple(jnp.zeros((*lead, *shape[2:]), dtype) for _ in range(layers))
        return place(jnp.zeros((layers, *shape), dtype), *_NAMES)

    return Past(
        stores={
            slots: (empty(kept.count(slots), slots, head_dim), empty(kept.count(slots), slots, value_dim or head_dim))
            for slots in sorted(set(kept))
        },
        valid=jnp.zeros((batch_size, max_len), bool),
        length=jnp.int32(0),
        position=jnp.zeros(batch_size, jnp.int32),
        rows=tuple(kept[:layer].count(slots) for layer, slots in enumerate(kept)),
    )
