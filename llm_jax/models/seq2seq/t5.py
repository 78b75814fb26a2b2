"""T5 (Raffel et al. 2020) and T5 v1.1 (Shazeer 2020): relative positions, RMSNorm before each part, no biases.

Scores are not scaled: the initial values of queries are. v1.0 has ReLU and one table for input and output, whose
logits are scaled by D^-1/2; v1.1 has gated GELU and a head of its own.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.tree_util import Partial
from jaxtyping import Array, Float

from llm_jax.core import checks, keys
from llm_jax.core.table import UserError
from llm_jax.core.types import Cache, Declaration, Key, Outputs, Params
from llm_jax.models.seq2seq import parts
from llm_jax.nn.attention import Context
from llm_jax.nn.cross.attention import CrossAttention, Paired, RelativeAttention, Source
from llm_jax.nn.declare import declarations, under, weight
from llm_jax.nn.dropout import dropout
from llm_jax.nn.initial import normal
from llm_jax.nn.linear import embed, linear, logits
from llm_jax.nn.mlp import HIDDEN, WIDTH, GatedMlp, gelu
from llm_jax.nn.norm import RmsNorm


class ReluMlp(nn.Module):
    """down(relu(inner(x))), no biases."""

    hidden: int
    up_init: Any
    down_init: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        inner = weight(self, "inner", (x.shape[-1], self.hidden), ("embed", "mlp"), self.up_init)
        down = weight(self, "down", (self.hidden, x.shape[-1]), ("mlp", "embed"), self.down_init)
        return linear(jax.nn.relu(linear(x, inner, out=HIDDEN)), down, out=WIDTH)


class Block(nn.Module):
    """x + attention(norm(x)), then, in a decoder with a source, + cross(norm(x)), then + mlp(norm(x))."""

    attention: Any
    cross: Any
    mlp: Any
    dropout: float
    eps: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], where: Any, layer: Any = 0, cache: Cache = None, key: Key | None = None
    ) -> tuple[Float[Array, "B T D"], Cache]:
        place, table, source = where
        drop = [None if key is None else keys.fold(key, name, layer) for name in ("attention", "cross", "mlp")]
        past = cache.past if isinstance(cache, Paired) else None
        y, past = self.attention(RmsNorm(self.eps, name="attention_norm")(x), place, table, layer, past)
        x = x + dropout(y, self.dropout, drop[0])
        if source is not None and self.cross is not None:
            memory = cache.of(layer) if isinstance(cache, Paired) else None
            numbers = jnp.ones(x.shape[:2], jnp.int32) if place.segments is None else place.segments
            y = self.cross(RmsNorm(self.eps, name="cross_norm")(x), numbers, source, memory)
            x = x + dropout(y, self.dropout, drop[1])
        y = self.mlp(RmsNorm(self.eps, name="mlp_norm")(x))
        cache = Paired(past, cache.memory, cache.segments) if isinstance(cache, Paired) else cache
        return x + dropout(y, self.dropout, drop[2]), cache


SIDES = {"encoder": ("source", "encoded"), "decoder": ("embed", "final")}  # names of dropout, before and after layers


@dataclass(frozen=True)
class T5:
    """The section `model` of this family; v1.1 is gated=True, tied=False. None derives:
    head_dim = embed_dim / num_heads, mlp_dim = 4 · embed_dim, encoder_layers = num_layers (those of the decoder).
    """

    vocab_size: int
    num_layers: int = 6
    embed_dim: int = 512
    num_heads: int = 8
    encoder_layers: int | None = None
    head_dim: int | None = None
    mlp_dim: int | None = None
    buckets: int = 32
    furthest: int = 128
    gated: bool = False
    tied: bool = True
    dropout: float = 0.0
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        sizes = {"head_dim": self.head_dim, "buckets": self.buckets, "furthest": self.furthest}
        parts.check(self, norm_eps=self.norm_eps, **sizes)
        if self.buckets % 4:
            raise UserError(f"model.buckets={self.buckets} must be a multiple of 4: halves of each direction; try 32")
        if self.furthest <= self.buckets // 2:
            raise UserError(
                f"model.furthest={self.furthest} must be above model.buckets / 2 = {self.buckets // 2}, the distances "
                "that have a bucket each"
            )
        if self.head_dim is None:
            checks.divides("model", "num_heads", self.num_heads, "embed_dim", self.embed_dim)

    def declarations(self) -> dict[str, Declaration]:
        """Every parameter by path."""
        x, one = jnp.zeros((1, 1, self.embed_dim)), jnp.ones((1, 1), jnp.int32)
        where = (Context(one, None), jnp.zeros((self.buckets, self.num_heads)), Source(x, one))
        found = {
            "embed": declarations(self._table("tokens")),
            "decoder_blocks": declarations(self._block(causal=True), x, where, layers=self.num_layers),
            "decoder_bias": declarations(self._biases()),
            "decoder_norm": declarations(RmsNorm(self.norm_eps), x),
            "encoder_blocks": declarations(
                self._block(causal=False), x, where, layers=self.encoder_layers or self.num_layers
            ),
            "encoder_bias": declarations(self._biases()),
            "encoder_norm": declarations(RmsNorm(self.norm_eps), x),
        }
        return (
            under(**found)
            if self.tied
            else under(**found, head=declarations(self._table("tokens", self.embed_dim**-0.5)))
        )

    init = parts.init  # each kernel by its fan-in, queries by that of the scores too, as the paper's code
    apply = parts.apply
    encode = parts.encode
    empty_cache = parts.empty_cache
    prefill = parts.prefill
    extend = parts.extend

    def _opened(self, params: Params, side: str, tokens: Array, positions: Array, key: Key | None) -> Array:
        x = embed(parts.read(self._table("tokens"), params, "embed"), tokens)
        return dropout(x, self.dropout, None if key is None else keys.fold(key, SIDES[side][0]))

    def _where(self, params: Params, side: str, place: Context, source: Source | None) -> Any:
        return place, parts.read(self._biases(), params, f"{side}_bias"), source

    def _closed(self, params: Params, side: str, x: Array, key: Key | None) -> Array:
        hidden = parts.read(RmsNorm(self.norm_eps), params, f"{side}_norm", x)
        return dropout(hidden, self.dropout, None if key is None else keys.fold(key, SIDES[side][1]))

    def _headed(self, params: Params, hidden: Array) -> Outputs:
        head = parts.read(self._table("tokens"), params, "embed" if self.tied else "head")
        hidden = hidden * jnp.asarray(self.embed_dim**-0.5, hidden.dtype) if self.tied else hidden
        return Outputs(hidden, Partial(logits, table=head))

    @property
    def _head_dim(self) -> int:
        return self.head_dim or self.embed_dim // self.num_heads

    def _table(self, label: str, std: float = 1.0) -> parts.Table:
        return parts.Table(label, (self.vocab_size, self.embed_dim), ("vocab", "embed"), normal(std))

    def _biases(self) -> parts.Table:
        return parts.Table("buckets", (self.buckets, self.num_heads), (None, "heads"), normal(self.embed_dim**-0.5))

    def _block(self, *, causal: bool) -> Block:
        D, K, hidden = self.embed_dim, self._head_dim, self.mlp_dim or 4 * self.embed_dim
        starts = (normal((D * K) ** -0.5), normal(D**-0.5), normal((self.num_heads * K) ** -0.5))
        mlp = partial(GatedMlp, activation=gelu) if self.gated else ReluMlp
        return Block(
            RelativeAttention(self.num_heads, K, *starts, causal=causal, furthest=self.furthest),
            CrossAttention(self.num_heads, K, *starts) if causal else None,
            mlp(hidden, normal(D**-0.5), normal(hidden**-0.5)), self.dropout, self.norm_eps,
        )  # fmt: skip
