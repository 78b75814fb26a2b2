"""Attention with learned biases of relative positions (Raffel et al. 2020, §2.1), and from one text to another."""

import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from llm_jax.kernels.attention import NEGATIVE
from llm_jax.mesh.place import explicit
from llm_jax.nn.attention import Context
from llm_jax.nn.cache import Past
from llm_jax.nn.declare import weight
from llm_jax.nn.initial import zeros
from llm_jax.nn.linear import linear


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Source:
    """What a decoder reads of another text: the encoder's hidden states, and their segments (0 is padding)."""

    hidden: Float[Array, "B S D"]
    segments: Int[Array, "B S"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Paired:
    """The cache of a decoder: its own past, and the keys and values of the source, one pair a layer.

    memory: keys and values [L,B,S,H,K], or None where there is no source. segments: of the source.
    """

    past: Past
    memory: tuple[Float[Array, "L B S H K"], Float[Array, "L B S H K"]] | None = None
    segments: Int[Array, "B S"] | None = None

    @property
    def position(self) -> Int[Array, "B"]:
        """Of each row's next token."""
        return self.past.position

    @property
    def length(self) -> Int[Array, ""]:
        """Slots written so far."""
        return self.past.length

    def of(self, layer: Any) -> tuple[Array, Array] | None:
        """Return one layer's keys and values of the source, [B,S,H,K] each."""
        if self.memory is None:
            return None
        keys, values = (jnp.asarray(part)[layer] for part in self.memory)
        return keys, values

    def reserve(self, real: Bool[Array, "B T"]) -> "Paired":
        """As `Past.reserve`."""
        return replace(self, past=self.past.reserve(real))

    def advance(self, real: Bool[Array, "B T"]) -> "Paired":
        """As `Past.advance`."""
        return replace(self, past=self.past.advance(real))

    def take(self, rows: Int[Array, "N"]) -> "Paired":
        """As `Past.take`; each row keeps its source."""
        memory = None
        if self.memory is not None:
            keys, values = (jnp.take(part, rows, axis=1) for part in self.memory)
            memory = (keys, values)
        segments = None if self.segments is None else jnp.take(self.segments, rows, axis=0)
        return Paired(self.past.take(rows), memory, segments)

    def reorder(self, rows: Int[Array, "B"]) -> "Paired":
        """As `take`, of rows with the same sources as those in whose places they come: what is kept of these stays."""
        return replace(self, past=self.past.take(rows))


def buckets(distance: Int[Array, "..."], *, number: int, furthest: int, both_ways: bool) -> Int[Array, "..."]:
    """Return the bucket of each distance, key position minus query position.

    Half of the buckets (of each direction, where `both_ways`) are of one distance each, the others grow
    logarithmically up to `furthest`; in a causal text, keys after the query are of distance 0.
    """
    if both_ways:
        number //= 2
        side, distance = number * (distance > 0), jnp.abs(distance)
    else:
        side, distance = jnp.zeros_like(distance), jnp.maximum(-distance, 0)
    exact = number // 2
    share = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / math.log(furthest / exact)
    far = jnp.minimum(exact + (share * (number - exact)).astype(jnp.int32), number - 1)
    return side + jnp.where(distance < exact, distance, far)


def attend(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S H K"],
    v: Float[Array, "B S H K"],
    allowed: Bool[Array, "B T S"],
    bias: Float[Array, "B H T S"] | None = None,
    scale: float = 1.0,
) -> Float[Array, "B T H K"]:
    """Return softmax(scale · q kᵀ + bias) v over the keys that are allowed, and 0 where none is."""
    scores = scale * jnp.einsum("bthk,bshk->bhts", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(allowed[:, None], scores if bias is None else scores + bias, NEGATIVE)
    weights = jnp.where(allowed[:, None], jax.nn.softmax(scores, axis=-1), 0.0)
    return jnp.einsum("bhts,bshk->bthk", weights.astype(v.dtype), v)


class Projections(nn.Module):
    """The four kernels of attention, by default without biases: heads of queries, keys and values, what mixes them."""

    num_heads: int
    head_dim: int
    query_init: Any
    in_init: Any
    out_init: Any
    bias: bool = False

    def heads(self, x: Float[Array, "B T D"], name: str) -> Float[Array, "B T H K"]:
        """Return the heads of `query`, `key` or `value`."""
        shape, axis = (x.shape[-1], self.num_heads, self.head_dim), "heads" if name == "query" else "kv"
        kernel = weight(
            self, name, shape, ("embed", axis, "head"), self.query_init if name == "query" else self.in_init
        )
        bias = weight(self, f"{name}_bias", shape[1:], (axis, "head"), zeros) if self.bias else None
        return linear(x, kernel, bias, out=("batch", "seq", "act_heads", None))

    def mixed(self, y: Float[Array, "B T H K"], width: int) -> Float[Array, "B T D"]:
        """Return what the heads found as one vector."""
        out = weight(self, "out", (self.num_heads, self.head_dim, width), ("heads", "head", "embed"), self.out_init)
        bias = weight(self, "out_bias", (width,), ("embed",), zeros) if self.bias else None
        return linear(y, out, bias, contract=2, out=("batch", "act_seq", "act_embed"))


class RelativeAttention(Projections):
    """Self-attention, causal or both ways, with a bias of each head for each bucket of distances."""

    causal: bool = True
    furthest: int = 128

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], where: Context, table: Float[Array, "N H"], layer: Any = 0,
        cache: Past | None = None,
    ) -> tuple[Float[Array, "B T D"], Past | None]:  # fmt: skip
        q, k, v = (self.heads(x, name) for name in ("query", "key", "value"))
        places, T = where.positions, x.shape[1]
        offset: Any = 0
        if cache is None or where.prompt:
            cache = cache and cache.write(layer, k, v)
            numbers = where.real().astype(jnp.int32) if where.segments is None else where.segments
            allowed = numbers[:, :, None] == numbers[:, None, :]
        else:
            offset = cache.length
            cache, seen = cache.follow(layer, k, v)
            k, v, places = seen.keys, seen.values, seen.positions
            allowed = jnp.broadcast_to(seen.valid[:, None, :], (len(x), T, k.shape[1]))
        if self.causal:
            allowed = allowed & (jnp.arange(k.shape[1])[None, :] <= offset + jnp.arange(T)[:, None])
        found = buckets(
            places[:, None, :] - where.positions[:, :, None], number=table.shape[0], furthest=self.furthest,
            both_ways=not self.causal,
        )  # fmt: skip
        sharding = explicit("batch", None, None, "act_heads", shape=(*found.shape, table.shape[1]))
        rows = table[found] if sharding is None else table.at[found].get(out_sharding=sharding)
        bias = jnp.moveaxis(rows, -1, 1)
        return self.mixed(attend(q, k, v, allowed, bias), x.shape[-1]), cache


class CrossAttention(Projections):
    """Attention from the tokens of a text to those of its source, in the segment of the same number."""

    scale: float = 1.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], numbers: Int[Array, "B T"], source: Source,
        memory: tuple[Array, Array] | None = None,
    ) -> Float[Array, "B T D"]:  # fmt: skip
        q = self.heads(x, "query")
        k, v = memory or (self.heads(source.hidden, "key"), self.heads(source.hidden, "value"))
        allowed = (numbers[:, :, None] == source.segments[:, None, :]) & (source.segments > 0)[:, None, :]
        return self.mixed(attend(q, k, v, allowed, scale=self.scale), x.shape[-1])


class Remembered(Projections):
    """The keys and values of a source, with the parameters of `CrossAttention`: what a cache keeps of it."""

    @nn.compact
    def __call__(self, hidden: Float[Array, "B S D"]) -> tuple[Float[Array, "B S H K"], Float[Array, "B S H K"]]:
        return self.heads(hidden, "key"), self.heads(hidden, "value")
