"""What a decoder remembers of the text so far: an explicit argument and result, never a mutable collection.

All rows of a batch end at the same slot (prompts are right-aligned), so that writing is one contiguous update. Heads
stand before slots, so that one token's scores are plain products of matrices with vectors, with no transposed copy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from llm_jax.mesh import plan
from llm_jax.mesh.place import place
from llm_jax.nn.stack import unroll_by_default

_NAMES = (None, "batch", "act_heads", None, None)
Store = Float[Array, "L B G S K"] | tuple[Float[Array, "*BG S K"], ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Full:
    """Keys and values of every past token, for all layers.

    keys, values: [L,B,G,S,K]; where the layers are unrolled, a tuple of L arrays [B,G,S,K] without a B or G of 1: XLA's
    CPU backend reads these in place, while it would copy a layer out of the whole, and everything to drop a 1.
    valid: which of the S slots hold a token. length: slots written so far. position: of each row's next token.
    """

    keys: Store
    values: Store
    valid: Bool[Array, "B S"]
    length: Int[Array, ""]
    position: Int[Array, "B"]

    def reserve(self, real: Bool[Array, "B T"]) -> "Full":
        """Mark the next T slots as holding tokens where `real`; to be called before the layers write them."""
        return replace(self, valid=jax.lax.dynamic_update_slice(self.valid, real, (0, self.length)))

    def write(self, layer: int | Array, k: Float[Array, "B T G K"], v: Float[Array, "B T G K"]) -> "Full":
        """Put one layer's new keys and values into the next T slots."""
        return replace(
            self, keys=_put(self.keys, layer, k, self.length), values=_put(self.values, layer, v, self.length)
        )

    def read(self, layer: int | Array) -> tuple[Array, Array]:
        """Return one layer's keys and values, [B,S,G,K] each."""
        rows, slots = self.valid.shape
        keys, values = (
            _layer(store, layer).reshape(rows, -1, slots, store[0].shape[-1]) for store in (self.keys, self.values)
        )
        return jnp.swapaxes(keys, 1, 2), jnp.swapaxes(values, 1, 2)

    def advance(self, real: Bool[Array, "B T"]) -> "Full":
        """Count the T slots as written."""
        return replace(self, length=self.length + real.shape[1], position=self.position + real.sum(1, dtype=jnp.int32))


def _put(store: Store, layer: int | Array, new: Float[Array, "B T G K"], slot: Int[Array, ""]) -> Store:
    heads_first = jnp.swapaxes(new, 1, 2)
    if not isinstance(store, tuple):
        return jax.lax.dynamic_update_slice(store, heads_first[None].astype(store.dtype), (layer, 0, 0, slot, 0))
    old = store[layer]
    update = heads_first.reshape(*old.shape[:-2], *heads_first.shape[-2:]).astype(old.dtype)
    written = jax.lax.dynamic_update_slice_in_dim(old, update, slot, axis=old.ndim - 2)
    return (*store[:layer], written, *store[layer + 1 :])


def _layer(store: Store, layer: int | Array) -> Array:
    return store[layer] if isinstance(layer, int) else jax.lax.dynamic_index_in_dim(store, layer, keepdims=False)


def full(
    layers: int, batch_size: int, max_len: int, kv_heads: int, head_dim: int, value_dim: int | None = None
) -> Full:
    """Return an empty cache for `max_len` tokens in the plan's compute dtype; values are as long as keys by default."""
    dtype = plan.current().compute_dtype

    def empty(size: int) -> Store:
        shape = (batch_size, kv_heads, max_len, size)
        if unroll_by_default(layers):
            lead = [n for n in shape[:2] if n > 1]
            return tuple(jnp.zeros((*lead, *shape[2:]), dtype) for _ in range(layers))
        return place(jnp.zeros((layers, *shape), dtype), *_NAMES)

    return Full(
        keys=empty(head_dim),
        values=empty(value_dim or head_dim),
        valid=jnp.zeros((batch_size, max_len), bool),
        length=jnp.int32(0),
        position=jnp.zeros(batch_size, jnp.int32),
    )


class Part(NamedTuple):
    """One array that a layer keeps of each row: shape and logical names without the row's own."""

    shape: tuple[int, ...]
    names: tuple[str | None, ...]
    dtype: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Recurrent:
    """What a recurrent model keeps of a text: the same size whatever its length.

    states: {part: [L,B,...]}; where the layers are unrolled, a tuple of L of them, {part: [B,...]}.
    length: tokens read so far, padding included. position: of each row's next token.
    """

    states: dict[str, Array] | tuple[dict[str, Array], ...]
    length: Int[Array, ""]
    position: Int[Array, "B"]

    def read(self, layer: int | Array) -> dict[str, Array]:
        """Return what one layer keeps."""
        if isinstance(self.states, tuple):
            return self.states[layer]
        return {name: _layer(a, layer) for name, a in self.states.items()}

    def write(self, layer: int | Array, new: dict[str, Array]) -> "Recurrent":
        """Put what one layer now keeps in the place of what it kept."""
        if isinstance(self.states, tuple):
            new = {name: a.astype(self.states[layer][name].dtype) for name, a in new.items()}
            return replace(self, states=(*self.states[:layer], new, *self.states[layer + 1 :]))
        put = jax.lax.dynamic_update_index_in_dim
        return replace(self, states={n: put(a, new[n].astype(a.dtype), layer, 0) for n, a in self.states.items()})

    def advance(self, real: Bool[Array, "B T"]) -> "Recurrent":
        """Count T tokens as read."""
        return replace(self, length=self.length + real.shape[1], position=self.position + real.sum(1, dtype=jnp.int32))


def recurrent(layers: int, batch_size: int, parts: Mapping[str, Part]) -> Recurrent:
    """Return the state of texts of which nothing has been read: zeros."""

    def empty(*lead: int) -> dict[str, Array]:
        return {
            name: place(jnp.zeros((*lead, *p.shape), p.dtype), *(None,) * (len(lead) - 1), "batch", *p.names)
            for name, p in parts.items()
        }

    one_by_one = unroll_by_default(layers)
    states = tuple(empty(batch_size) for _ in range(layers)) if one_by_one else empty(layers, batch_size)
    return Recurrent(states, jnp.int32(0), jnp.zeros(batch_size, jnp.int32))
