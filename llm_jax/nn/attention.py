"""Multi-head self-attention with grouped queries, one module for training, prompts and single tokens."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.tree_util import register_dataclass
from jaxtyping import Array, Bool, Float, Int

from llm_jax.core.table import lookup
from llm_jax.core.types import Batch
from llm_jax.kernels import ATTENTION
from llm_jax.mesh.place import place
from llm_jax.mesh.remat import named
from llm_jax.nn.cache import Past
from llm_jax.nn.declare import weight
from llm_jax.nn.initial import zeros
from llm_jax.nn.linear import linear
from llm_jax.nn.norm import RmsNorm
from llm_jax.nn.rotary import rotate


@partial(register_dataclass, data_fields=["positions", "segments", "prefix"], meta_fields=["prompt"])
@dataclass(frozen=True)
class Context:
    """Where the tokens of a batch stand.

    positions: within their segment, [B,T]. segments: 0 is padding; None when every row is one text.
    prompt: with a cache, whether these tokens are the first ones, which then need to see only each other.
    prefix: the first tokens of texts, which causal attention reads in both directions; None where there are none.
    """

    positions: Int[Array, "B T"]
    segments: Int[Array, "B T"] | None
    prompt: bool = False
    prefix: Bool[Array, "B T"] | None = None

    def real(self) -> Array:
        """Which tokens are no padding, bool [B,T]."""
        return jnp.ones(self.positions.shape, bool) if self.segments is None else self.segments > 0

    def among(self) -> dict[str, Any]:
        """What the kernels of attention ask of tokens that see only each other: segments, and a prefix if there is."""
        options: dict[str, Any] = {"segments": None if self.segments is None else (self.segments, self.segments)}
        return options if self.prefix is None else options | {"prefix": self.prefix}

    def lengths(self) -> Int[Array, "B T"]:
        """How long the text of each token is so far: one more than the position of its segment's last token."""
        if self.segments is None:
            return jnp.broadcast_to(self.positions[:, -1:] + 1, self.positions.shape)
        ends = self.positions.shape[1] - 1 - _starts(place(self.segments, "batch", None)[:, ::-1])[:, ::-1]
        return jnp.take_along_axis(place(self.positions, "batch", None), ends, axis=1) + 1


def context(batch: Batch, cache: Past | None = None, *, prompt: bool = False) -> Context:
    """Return the context of a batch; positions that it lacks count from 0 in each segment, or go on from the cache."""
    tokens, segments, positions = batch["tokens"], batch.get("segments"), batch.get("positions")
    if positions is None:
        counted = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
        if cache is not None and not prompt:
            counted = counted + cache.position[:, None]
        positions = counted if segments is None else counted - _starts(place(jnp.asarray(segments), "batch", None))
        positions = place(positions, "batch", "seq")
    segments, prefix = (None if x is None else jnp.asarray(x) for x in (segments, batch.get("prefix")))
    return Context(positions, segments, prompt, prefix)


def _starts(segments: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """For each token, the slot at which its segment began."""
    slots = jnp.arange(segments.shape[1], dtype=jnp.int32)
    changed = jnp.concatenate([jnp.ones_like(segments[:, :1], bool), segments[:, 1:] != segments[:, :-1]], axis=1)
    return jnp.maximum.accumulate(jnp.where(changed, slots, 0), axis=1)


class SelfAttention(nn.Module):
    """out(attention(query(x), key(x), value(x))), optionally with rotary positions, biases and more.

    wavelengths: rotary `Frequencies`, of up to K/2 pairs. amplitude: by how much turned queries and keys are longer.
    norm: epsilon of an RMSNorm (or norm_kind) of each query and key, or, with joint_norm, of those of all heads as one
    vector. window: tokens that each sees, and as many ahead where later ones are seen. sinks: whether each head has the
    score of a key of no value. scale: of the scores, default K^-1/2. out_bias: whether the result has a bias, default
    as the others. softcap: scores are softcap · tanh(scores / softcap). causal: whether a token sees no later ones.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    in_init: Any
    out_init: Any
    kernel: str = "auto"
    bias: bool = False
    wavelengths: Any = None
    amplitude: float = 1.0
    norm: float | None = None
    window: int | None = None
    sinks: bool = False
    scale: float | None = None
    out_bias: bool | None = None
    joint_norm: bool = False
    softcap: float | None = None
    norm_kind: Any = RmsNorm
    causal: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], where: Context, layer: int | Array = 0, cache: Past | None = None
    ) -> tuple[Float[Array, "B T D"], Past | None]:
        q = self._normal(self._heads(x, "query", self.num_heads, "heads"), "query_norm", "heads")
        k = self._normal(self._heads(x, "key", self.num_kv_heads, "kv"), "key_norm", "kv")
        v = self._heads(x, "value", self.num_kv_heads, "kv")
        y, cache = self._attend(q, k, v, where, layer, cache)
        axes, shape = ("heads", "head", "embed"), (self.num_heads, self.head_dim, x.shape[-1])
        out = weight(self, "out", shape, axes, self.out_init)
        biased = self.bias if self.out_bias is None else self.out_bias
        bias = weight(self, "out_bias", shape[-1:], ("embed",), zeros) if biased else None
        y = linear(named(y, "attention"), out, bias, contract=2, out=("batch", "act_seq", "act_embed"))
        return named(y, "attention_out"), cache

    def _heads(self, x: Array, name: str, heads: int, axis: str) -> Array:
        shape = (x.shape[-1], heads, self.head_dim)
        kernel = weight(self, name, shape, ("embed", axis, "head"), self.in_init)
        bias = weight(self, f"{name}_bias", shape[1:], (axis, "head"), zeros) if self.bias else None
        return named(linear(x, kernel, bias, out=("batch", "seq", "act_heads", None)), name)

    def _normal(self, x: Array, name: str, axis: str) -> Array:
        if self.norm is None:
            return x
        return self.norm_kind(self.norm, (axis, "head") if self.joint_norm else ("embed",), name=name)(x)

    def _attend(self, q, k, v, where, layer, cache):
        changing = callable(self.wavelengths)
        lengths: Any = where.lengths() if changing else None
        q, turned = self._turn(q, where.positions, lengths), self._turn(k, where.positions, lengths)
        kept = k if changing else turned
        attention = self._attention()
        if cache is None or where.prompt:
            cache = cache and cache.write(layer, kept, v, self.window)
            return attention(q, turned, v, **where.among()), cache
        cache, past = cache.follow(layer, kept, v, self.window)
        keys = self._turn(past.keys, past.positions, lengths[:, -1:]) if changing else past.keys
        seen = (jnp.ones(q.shape[:2], jnp.int32), past.valid.astype(jnp.int32))
        return attention(q, keys, past.values, offset=cache.length, segments=seen, slots=past.slots), cache

    def _turn(self, x: Array, positions: Array, lengths: Array | None) -> Array:
        if self.wavelengths is None:
            return x
        return rotate(x, positions, self.wavelengths if lengths is None else self.wavelengths(lengths), self.amplitude)

    def _attention(self) -> Any:
        options: dict[str, Any] = {"window": self.window, "scale": self.scale, "softcap": self.softcap}
        if not self.causal:
            options["causal"] = False
        if self.sinks:
            options["sinks"] = weight(self, "sinks", (self.num_heads,), ("heads",), zeros)
        return partial(lookup(ATTENTION, self.kernel, "model.attention"), **options)
