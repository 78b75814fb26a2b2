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
from llm_jax.core.types import Batch, Cache, Declaration, Key, Outputs, Params
from llm_jax.nn import cache as caches
from llm_jax.nn.attention import Context, context
from llm_jax.nn.cross.attention import CrossAttention, Paired, RelativeAttention, Source
from llm_jax.nn.declare import declarations, initialize, under, weight
from llm_jax.nn.dropout import dropout
from llm_jax.nn.initial import normal
from llm_jax.nn.linear import embed, linear, logits
from llm_jax.nn.mlp import HIDDEN, WIDTH, GatedMlp, gelu
from llm_jax.nn.norm import RmsNorm
from llm_jax.nn.stack import stack, unstack


class Table(nn.Module):
    """One table [N, D], a parameter named `label`."""

    label: str
    shape: tuple[int, int]
    axes: tuple[str | None, str | None]
    start: Any

    @nn.compact
    def __call__(self) -> Float[Array, "N D"]:
        return weight(self, self.label, self.shape, self.axes, self.start)


class ReluMlp(nn.Module):
    """down(relu(up(x))), no biases."""

    hidden: int
    up_init: Any
    down_init: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        up = weight(self, "up", (x.shape[-1], self.hidden), ("embed", "mlp"), self.up_init)
        down = weight(self, "down", (self.hidden, x.shape[-1]), ("mlp", "embed"), self.down_init)
        return linear(jax.nn.relu(linear(x, up, out=HIDDEN)), down, out=WIDTH)


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
            memory = None
            if isinstance(cache, Paired) and cache.memory is not None:
                memory = tuple(jnp.asarray(part)[layer] for part in cache.memory)
            numbers = jnp.ones(x.shape[:2], jnp.int32) if place.segments is None else place.segments
            y = self.cross(RmsNorm(self.eps, name="cross_norm")(x), numbers, source, memory)
            x = x + dropout(y, self.dropout, drop[1])
        y = self.mlp(RmsNorm(self.eps, name="mlp_norm")(x))
        cache = Paired(past, cache.memory, cache.segments) if isinstance(cache, Paired) else cache
        return x + dropout(y, self.dropout, drop[2]), cache


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
        checks.positive(
            "model", vocab_size=self.vocab_size, num_layers=self.num_layers, embed_dim=self.embed_dim,
            num_heads=self.num_heads, encoder_layers=self.encoder_layers, head_dim=self.head_dim, mlp_dim=self.mlp_dim,
            buckets=self.buckets, furthest=self.furthest, norm_eps=self.norm_eps,
        )  # fmt: skip
        checks.fraction("model", dropout=self.dropout)
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
        parts = {
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
            under(**parts)
            if self.tied
            else under(**parts, head=declarations(self._table("tokens", self.embed_dim**-0.5)))
        )

    def init(self, key: Key) -> Params:
        """Initial values of the paper's code: each kernel by its fan-in, queries by that of the scores too."""
        return initialize(self.declarations(), key)

    def apply(self, params: Params, batch: Batch, *, key: Key | None = None) -> Outputs:
        """Outputs of whole texts given `source_tokens`; without them, of the decoder alone."""
        return self._forward(params, batch, context(batch), None, self._source(params, batch, key), key)[0]

    def encode(self, params: Params, batch: Batch, *, key: Key | None = None) -> Float[Array, "B S D"]:
        """Return the hidden states of `source_tokens`."""
        fields = {"source_tokens": "tokens", "source_segments": "segments", "source_positions": "positions"}
        source = {short: batch[name] for name, short in fields.items() if name in batch}
        x = embed(self._read(self._table("tokens"), params, "embed"), jnp.asarray(source["tokens"], jnp.int32))
        x = dropout(x, self.dropout, None if key is None else keys.fold(key, "source"))
        inner = None if key is None else keys.fold(key, "encoder")
        where = (context(source), self._read(self._biases(), params, "encoder_bias"), None)
        x, _ = stack(self._layer(causal=False), params["encoder_blocks"], x, where, None, inner)
        x = self._read(RmsNorm(self.norm_eps), params, "encoder_norm", x)
        return dropout(x, self.dropout, None if key is None else keys.fold(key, "encoded"))

    def empty_cache(self, batch_size: int, max_len: int) -> Paired:
        """A cache for `max_len` tokens; `prefill` adds what it keeps of a source."""
        return Paired(caches.full(self.num_layers, batch_size, max_len, self.num_heads, self._head_dim))

    def prefill(self, params: Params, batch: Batch, cache: Paired) -> tuple[Outputs, Paired]:
        """Read whole prompts, and their sources if there are any, into an empty cache."""
        source = self._source(params, batch, None)
        if source is not None:
            cache = Paired(cache.past, self._memory(params, source), source.segments)
        return self._forward(params, batch, context(batch, cache.past, prompt=True), cache, source, None)

    def extend(self, params: Params, tokens: Array, cache: Paired) -> tuple[Outputs, Paired]:
        """Read tokens [B,n] that follow those in the cache."""
        batch = {"tokens": tokens}
        source = None if cache.segments is None else Source(jnp.zeros((*cache.segments.shape, 0)), cache.segments)
        return self._forward(params, batch, context(batch, cache.past), cache, source, None)

    def _forward(self, params: Params, batch: Batch, place: Context, cache: Any, source: Source | None, key: Any):
        table = self._read(self._table("tokens"), params, "embed")
        x = embed(table, jnp.asarray(batch["tokens"], jnp.int32))
        x = dropout(x, self.dropout, None if key is None else keys.fold(key, "embed"))
        cache = cache and cache.reserve(place.real())
        where = (place, self._read(self._biases(), params, "decoder_bias"), source)
        x, cache = stack(self._layer(causal=True), params["decoder_blocks"], x, where, cache, key)
        hidden = self._read(RmsNorm(self.norm_eps), params, "decoder_norm", x)
        hidden = dropout(hidden, self.dropout, None if key is None else keys.fold(key, "final"))
        hidden = hidden * jnp.asarray(self.embed_dim**-0.5, hidden.dtype) if self.tied else hidden
        head = table if self.tied else self._read(self._table("tokens"), params, "head")
        return Outputs(hidden, Partial(logits, table=head)), cache and cache.advance(place.real())

    def _source(self, params: Params, batch: Batch, key: Key | None) -> Source | None:
        if "source_tokens" not in batch:
            return None
        hidden = self.encode(params, batch, key=key)
        segments = batch.get("source_segments")
        return Source(hidden, jnp.ones(hidden.shape[:2], jnp.int32) if segments is None else jnp.asarray(segments))

    def _memory(self, params: Params, source: Source) -> tuple[Array, Array]:
        layers = params["decoder_blocks"]
        kernels = [layer["cross"] for layer in (layers if isinstance(layers, tuple) else unstack(layers))]
        out = ("batch", "seq", "act_heads", None)
        keys_, values = (
            jnp.stack(
                [linear(source.hidden, jnp.asarray(kernel[name], source.hidden.dtype), out=out) for kernel in kernels]
            )
            for name in ("key", "value")
        )
        return keys_, values

    @staticmethod
    def _read(module: nn.Module, params: Params, name: str, *inputs: Any) -> Any:
        return module.apply({"params": params[name]}, *inputs)

    def _layer(self, *, causal: bool) -> Any:
        block = self._block(causal=causal)
        return lambda p, *inputs: block.apply({"params": p}, *inputs)

    @property
    def _head_dim(self) -> int:
        return self.head_dim or self.embed_dim // self.num_heads

    def _table(self, label: str, std: float = 1.0) -> Table:
        return Table(label, (self.vocab_size, self.embed_dim), ("vocab", "embed"), normal(std))

    def _biases(self) -> Table:
        return Table("buckets", (self.buckets, self.num_heads), (None, "heads"), normal(self.embed_dim**-0.5))

    def _block(self, *, causal: bool) -> Block:
        D, K, hidden = self.embed_dim, self._head_dim, self.mlp_dim or 4 * self.embed_dim
        starts = (normal((D * K) ** -0.5), normal(D**-0.5), normal((self.num_heads * K) ** -0.5))
        mlp = partial(GatedMlp, activation=gelu) if self.gated else ReluMlp
        return Block(
            RelativeAttention(self.num_heads, K, *starts, causal=causal, furthest=self.furthest),
            CrossAttention(self.num_heads, K, *starts) if causal else None,
            mlp(hidden, normal(D**-0.5), normal(hidden**-0.5)), self.dropout, self.norm_eps,
        )  # fmt: skip
