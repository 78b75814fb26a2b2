"""Llama (Touvron et al. 2023): rotary positions, RMSNorm before each part, SwiGLU, grouped queries, no biases."""

import math
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.tree_util import Partial
from jaxtyping import Array, Float

from llm_jax.core import checks, keys
from llm_jax.core.table import UserError
from llm_jax.core.types import Batch, Cache, Declaration, Key, Outputs, Params
from llm_jax.nn import cache as caches
from llm_jax.nn.attention import Context, SelfAttention, context
from llm_jax.nn.declare import declarations, initialize, under, weight
from llm_jax.nn.dropout import dropout
from llm_jax.nn.initial import normal
from llm_jax.nn.linear import embed, logits
from llm_jax.nn.mlp import GatedMlp
from llm_jax.nn.norm import RmsNorm
from llm_jax.nn.rotary import Rope
from llm_jax.nn.stack import stack


class Table(nn.Module):
    """A [V,D] table: token embeddings, or the output head when it is not tied to them."""

    vocab_size: int
    width: int
    std: float = 0.02

    @nn.compact
    def __call__(self) -> Float[Array, "V D"]:
        return weight(self, "tokens", (self.vocab_size, self.width), ("vocab", "embed"), normal(self.std))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    attention: Any
    mlp: Any
    dropout: float
    eps: float
    norm: Any = RmsNorm

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], where: Context, layer: Any = 0, cache: Cache = None, key: Key | None = None
    ) -> tuple[Float[Array, "B T D"], Cache]:
        drop = [None, None] if key is None else [keys.fold(key, name, layer) for name in ("attention", "mlp")]
        y, cache = self.attention(self.norm(self.eps, name="attention_norm")(x), where, layer, cache)
        x = x + dropout(y, self.dropout, drop[0])
        y = self.mlp(self.norm(self.eps, name="mlp_norm")(x))
        return x + dropout(y, self.dropout, drop[1]), cache


@dataclass(frozen=True)
class Llama:
    """The section `model` of this family.

    None derives: num_kv_heads = num_heads, head_dim = embed_dim / num_heads, mlp_dim = 8/3 · embed_dim, up to a
    multiple of 64.
    """

    vocab_size: int
    num_layers: int = 12
    embed_dim: int = 768
    num_heads: int = 12
    num_kv_heads: int | None = None
    head_dim: int | None = None
    mlp_dim: int | None = None
    tied: bool = False
    dropout: float = 0.0
    norm_eps: float = 1e-5
    attention: str = "auto"
    rope: Rope = field(default_factory=Rope)

    def __post_init__(self) -> None:
        checks.positive(
            "model", vocab_size=self.vocab_size, num_layers=self.num_layers, embed_dim=self.embed_dim,
            num_heads=self.num_heads, num_kv_heads=self.num_kv_heads, head_dim=self.head_dim, mlp_dim=self.mlp_dim,
            norm_eps=self.norm_eps,
        )  # fmt: skip
        checks.fraction("model", dropout=self.dropout)
        checks.divides("model", "num_kv_heads", self._kv_heads, "num_heads", self.num_heads)
        if self.head_dim is None:
            checks.divides("model", "num_heads", self.num_heads, "embed_dim", self.embed_dim)
        if self._head_dim % 2:
            raise UserError(f"model.head_dim={self._head_dim} must be even: rotary positions turn pairs of dimensions")

    def declarations(self) -> dict[str, Declaration]:
        """Every parameter by path."""
        x, where = jnp.zeros((1, 1, self.embed_dim)), Context(jnp.zeros((1, 1), jnp.int32), None)
        parts = {
            "embed": declarations(self._table()),
            "blocks": declarations(self._block(), x, where, layers=self.num_layers),
            "final_norm": declarations(RmsNorm(self.norm_eps), x),
        }
        return under(**parts) if self.tied else under(**parts, head=declarations(self._table()))

    def init(self, key: Key) -> Params:
        """Initial values: normal(0.02), residual outputs scaled by 1/sqrt(2L)."""
        return initialize(self.declarations(), key)

    def apply(self, params: Params, batch: Batch, *, key: Key | None = None) -> Outputs:
        """Outputs of a whole batch."""
        return self._forward(params, batch, context(batch), None, key)[0]

    def empty_cache(self, batch_size: int, max_len: int) -> Cache:
        """A cache for `max_len` tokens."""
        return caches.full(self.num_layers, batch_size, max_len, self._kv_heads, self._head_dim)

    def prefill(self, params: Params, batch: Batch, cache: Cache) -> tuple[Outputs, Cache]:
        """Read whole prompts into an empty cache."""
        return self._forward(params, batch, context(batch, cache, prompt=True), cache, None)

    def extend(self, params: Params, tokens: Array, cache: Cache) -> tuple[Outputs, Cache]:
        """Read tokens [B,n] that follow those in the cache."""
        batch = {"tokens": tokens}
        return self._forward(params, batch, context(batch, cache), cache, None)

    def _forward(
        self, params: Params, batch: Batch, where: Context, cache: Cache, key: Key | None
    ) -> tuple[Outputs, Cache]:
        table: Any = self._table().apply({"params": params["embed"]})
        x = embed(table, jnp.asarray(batch["tokens"], jnp.int32))
        x = dropout(x, self.dropout, None if key is None else keys.fold(key, "embed"))
        block = self._block()
        cache = cache and cache.reserve(where.real())

        def layer(p: Params, *inputs: Any) -> tuple[Array, Cache]:
            return block.apply({"params": p}, *inputs)

        x, cache = stack(layer, params["blocks"], x, where, cache, key, whole=cache is None)
        hidden = RmsNorm(self.norm_eps).apply({"params": params["final_norm"]}, x)
        head: Any = table if self.tied else self._table().apply({"params": params["head"]})
        return Outputs(hidden, Partial(logits, table=head)), cache and cache.advance(where.real())

    @property
    def _kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def _head_dim(self) -> int:
        return self.head_dim or self.embed_dim // self.num_heads

    def _table(self) -> Table:
        return Table(self.vocab_size, self.embed_dim)

    def _block(self) -> Block:
        residual = normal(0.02 / math.sqrt(2 * self.num_layers))
        attention = SelfAttention(
            self.num_heads, self._kv_heads, self._head_dim, normal(0.02), residual, self.attention,
            wavelengths=self.rope.frequencies(self._head_dim), amplitude=self.rope.growth,
        )  # fmt: skip
        hidden = self.mlp_dim or 64 * math.ceil(8 * self.embed_dim / 3 / 64)
        return Block(attention, GatedMlp(hidden, normal(0.02), residual), self.dropout, self.norm_eps)


PRESETS = {
    "150m": {"num_layers": 20, "embed_dim": 768, "num_heads": 12, "num_kv_heads": 4, "mlp_dim": 2048},
    "1b": {"num_layers": 16, "embed_dim": 2048, "num_heads": 32, "num_kv_heads": 8, "mlp_dim": 8192},
    "7b": {"num_layers": 32, "embed_dim": 4096, "num_heads": 32, "mlp_dim": 11008},
    "8b": {
        "num_layers": 32, "embed_dim": 4096, "num_heads": 32, "num_kv_heads": 8, "mlp_dim": 14336,
        "rope": {"theta": 5e5, "factor": 8.0, "original": 8192},
    },
    "13b": {"num_layers": 40, "embed_dim": 5120, "num_heads": 40, "mlp_dim": 13824},
    "70b": {"num_layers": 80, "embed_dim": 8192, "num_heads": 64, "num_kv_heads": 8, "mlp_dim": 28672},
}  # fmt: skip
"""Sizes as fields of `Llama`: 7b, 13b and 70b are Llama 2's, 8b is Llama 3.1's, 1b is Llama 3.2's, 150m is ours."""
