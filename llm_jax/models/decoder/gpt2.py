"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm before each part, GELU, biases, tied embeddings."""

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.tree_util import Partial
from jaxtyping import Array, Float

from llm_jax.core import checks, keys
from llm_jax.core.types import Batch, Cache, Declaration, Key, Outputs, Params
from llm_jax.nn import cache as caches
from llm_jax.nn.attention import Context, SelfAttention, context
from llm_jax.nn.declare import declarations, initialize, under, weight
from llm_jax.nn.dropout import dropout
from llm_jax.nn.initial import normal
from llm_jax.nn.linear import embed, logits
from llm_jax.nn.mlp import Mlp
from llm_jax.nn.norm import LayerNorm
from llm_jax.nn.stack import stack


class Embedding(nn.Module):
    """Token and position embeddings, added; returns the token table too, which is the output head."""

    vocab_size: int
    max_positions: int
    width: int

    @nn.compact
    def __call__(self, tokens: Array, positions: Array) -> tuple[Float[Array, "B T D"], Float[Array, "V D"]]:
        table = weight(self, "tokens", (self.vocab_size, self.width), ("vocab", "embed"), normal(0.02))
        places = weight(self, "positions", (self.max_positions, self.width), (None, "embed"), normal(0.01))
        return embed(table, tokens) + embed(places, positions), table


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    attention: Any
    mlp: Any
    dropout: float
    eps: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], where: Context, layer: Any = 0, cache: Cache = None, key: Key | None = None
    ) -> tuple[Float[Array, "B T D"], Cache]:
        drop = [None, None] if key is None else [keys.fold(key, name, layer) for name in ("attention", "mlp")]
        y, cache = self.attention(LayerNorm(self.eps, name="attention_norm")(x), where, layer, cache)
        x = x + dropout(y, self.dropout, drop[0])
        y = self.mlp(LayerNorm(self.eps, name="mlp_norm")(x))
        return x + dropout(y, self.dropout, drop[1]), cache


@dataclass(frozen=True)
class GPT2:
    """The section `model` of this family. None derives: head_dim = embed_dim / num_heads, mlp_dim = 4 · embed_dim."""

    vocab_size: int
    max_positions: int
    num_layers: int = 12
    embed_dim: int = 768
    num_heads: int = 12
    head_dim: int | None = None
    mlp_dim: int | None = None
    dropout: float = 0.0
    norm_eps: float = 1e-5
    attention: str = "auto"

    def __post_init__(self) -> None:
        checks.positive(
            "model", vocab_size=self.vocab_size, max_positions=self.max_positions, num_layers=self.num_layers,
            embed_dim=self.embed_dim, num_heads=self.num_heads, head_dim=self.head_dim, mlp_dim=self.mlp_dim,
            norm_eps=self.norm_eps,
        )  # fmt: skip
        checks.fraction("model", dropout=self.dropout)
        if self.head_dim is None:
            checks.divides("model", "num_heads", self.num_heads, "embed_dim", self.embed_dim)

    def declarations(self) -> dict[str, Declaration]:
        """Every parameter by path."""
        tokens = jnp.zeros((1, 1), jnp.int32)
        x, where = jnp.zeros((1, 1, self.embed_dim)), Context(tokens, None)
        return under(
            embed=declarations(self._embedding(), tokens, tokens),
            blocks=declarations(self._block(), x, where, layers=self.num_layers),
            final_norm=declarations(LayerNorm(self.norm_eps), x),
        )

    def init(self, key: Key) -> Params:
        """Initial values: normal(0.02), residual outputs scaled by 1/sqrt(2L)."""
        return initialize(self.declarations(), key)

    def apply(self, params: Params, batch: Batch, *, key: Key | None = None) -> Outputs:
        """Outputs of a whole batch; see CONTRACTS in `core.types`."""
        return self._forward(params, batch, context(batch), None, key)[0]

    def empty_cache(self, batch_size: int, max_len: int) -> Cache:
        """A cache for `max_len` tokens."""
        return caches.full(self.num_layers, batch_size, max_len, self.num_heads, self._head_dim)

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
        tokens = jnp.asarray(batch["tokens"], jnp.int32)
        table: Any
        x, table = self._embedding().apply({"params": params["embed"]}, tokens, where.positions)
        x = dropout(x, self.dropout, None if key is None else keys.fold(key, "embed"))
        block = self._block()
        cache = cache and cache.reserve(where.real())

        def layer(p: Params, *inputs: Any) -> tuple[Array, Cache]:
            return block.apply({"params": p}, *inputs)

        x, cache = stack(layer, params["blocks"], x, where, cache, key, whole=cache is None)
        hidden = LayerNorm(self.norm_eps).apply({"params": params["final_norm"]}, x)
        return Outputs(hidden, Partial(logits, table=table)), cache and cache.advance(where.real())

    @property
    def _head_dim(self) -> int:
        return self.head_dim or self.embed_dim // self.num_heads

    def _embedding(self) -> Embedding:
        return Embedding(self.vocab_size, self.max_positions, self.embed_dim)

    def _block(self) -> Block:
        residual = normal(0.02 / math.sqrt(2 * self.num_layers))
        attention = SelfAttention(
            self.num_heads, self.num_heads, self._head_dim, normal(0.02), residual, self.attention, bias=True
        )
        return Block(
            attention, Mlp(self.mlp_dim or 4 * self.embed_dim, normal(0.02), residual), self.dropout, self.norm_eps
        )


PRESETS = {
    "124m": {"num_layers": 12, "embed_dim": 768, "num_heads": 12},
    "350m": {"num_layers": 24, "embed_dim": 1024, "num_heads": 16},
    "774m": {"num_layers": 36, "embed_dim": 1280, "num_heads": 20},
    "1.5b": {"num_layers": 48, "embed_dim": 1600, "num_heads": 25},
}
"""Published sizes (Radford et al. 2019, table 2), as fields of `GPT2`; vocab_size 50257, max_positions 1024."""
