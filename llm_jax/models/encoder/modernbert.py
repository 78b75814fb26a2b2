"""ModernBERT (Warner et al. 2024): an encoder with rotary positions, windows in most layers, gated MLPs, no biases."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.tree_util import Partial
from jaxtyping import Array, Float

from llm_jax.core import checks, keys
from llm_jax.core.table import UserError
from llm_jax.core.types import Batch, Cache, Declaration, Key, Outputs, Params
from llm_jax.models.decoder.parts import residual
from llm_jax.models.encoder import parts
from llm_jax.nn.attention import Context, SelfAttention, context
from llm_jax.nn.declare import declarations as declared
from llm_jax.nn.declare import initialize, under, weight
from llm_jax.nn.dropout import dropout
from llm_jax.nn.initial import normal, zeros
from llm_jax.nn.linear import embed as looked_up
from llm_jax.nn.linear import linear, logits
from llm_jax.nn.mlp import GatedMlp, exact_gelu
from llm_jax.nn.norm import LayerNorm
from llm_jax.nn.rotary import frequencies
from llm_jax.nn.stack import through

INIT = normal(0.02)
FIRST, LOCAL, GLOBAL = "first_blocks", "local_blocks", "global_blocks"


class Embedding(nn.Module):
    """norm(token embeddings); returns the table too, which is the output head."""

    vocab_size: int
    width: int
    eps: float

    @nn.compact
    def __call__(self, tokens: Array) -> tuple[Float[Array, "B T D"], Array]:
        table = weight(self, "tokens", (self.vocab_size, self.width), ("vocab", "embed"), INIT)
        return LayerNorm(self.eps, bias=False, name="norm")(looked_up(table, tokens)), table


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); what comes from the embedding is normed already (`first`)."""

    attention: Any
    mlp: Any
    dropout: float
    eps: float
    first: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], where: Context, layer: Any = 0, cache: Cache = None, key: Key | None = None
    ) -> tuple[Float[Array, "B T D"], Cache]:
        drop = [None, None] if key is None else [keys.fold(key, name, layer) for name in ("attention", "mlp")]
        normed = x if self.first else LayerNorm(self.eps, bias=False, name="attention_norm")(x)
        y, cache = self.attention(normed, where, layer, cache)
        x = x + dropout(y, self.dropout, drop[0])
        y = self.mlp(LayerNorm(self.eps, bias=False, name="mlp_norm")(x))
        return x + dropout(y, self.dropout, drop[1]), cache


class Head(nn.Module):
    """What turns hidden states into scores of the vocabulary beside the token table: gelu, norm and a bias."""

    vocab_size: int
    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> dict[str, Array]:
        LayerNorm(self.eps, bias=False, name="norm")(x)  # declares its scale, which `_Scores` uses
        kernel = weight(self, "kernel", (x.shape[-1], x.shape[-1]), ("embed", None), INIT)
        return {"kernel": kernel, "bias": weight(self, "bias", (self.vocab_size,), ("vocab",), zeros)}


@dataclass(frozen=True)
class _Scores:
    """The head as a function of arrays alone."""

    eps: float

    def __call__(self, hidden: Array, *, table: Array, norm: Params, kernel: Array, bias: Array) -> Array:
        x: Any = exact_gelu(hidden.reshape(-1, hidden.shape[-1]) @ kernel)
        x = LayerNorm(self.eps, bias=False).apply({"params": norm}, x)
        return logits(x.reshape(hidden.shape), table) + bias.astype(jnp.float32)


@dataclass(frozen=True)
class ModernBert:
    """The section `model` of this family. None derives: mlp_dim = 1.5 · embed_dim.

    The first layer, and then each `global_every`-th, sees all, with rotary positions of base `theta`; the others see
    half a `window` of tokens to each side, with base `local_theta`.
    """

    vocab_size: int
    num_layers: int = 22
    embed_dim: int = 768
    num_heads: int = 12
    mlp_dim: int | None = None
    window: int = 128
    global_every: int = 3
    theta: float = 160_000.0
    local_theta: float = 10_000.0
    dropout: float = 0.0
    norm_eps: float = 1e-5
    attention: str = "auto"

    def __post_init__(self) -> None:
        checks.positive(
            "model", vocab_size=self.vocab_size, num_layers=self.num_layers, embed_dim=self.embed_dim,
            num_heads=self.num_heads, mlp_dim=self.mlp_dim, window=self.window, global_every=self.global_every,
            theta=self.theta, local_theta=self.local_theta, norm_eps=self.norm_eps,
        )  # fmt: skip
        checks.fraction("model", dropout=self.dropout)
        checks.divides("model", "num_heads", self.num_heads, "embed_dim", self.embed_dim)
        if self.embed_dim // self.num_heads % 2:
            raise UserError(
                f"model.embed_dim={self.embed_dim} over model.num_heads={self.num_heads} makes heads of "
                f"{self.embed_dim // self.num_heads}, and rotary positions turn pairs: make it even"
            )

    def stacks(self) -> dict[str, tuple[int, ...]]:
        """The numbers of the layers that each stack of parameters holds."""
        kinds = self._kinds()
        return {kind: tuple(i for i, k in enumerate(kinds) if k == kind) for kind in dict.fromkeys(kinds)}

    def declarations(self) -> dict[str, Declaration]:
        """Every parameter by path."""
        tokens, x = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1, self.embed_dim))
        blocks = {
            kind: declared(self._block(kind), x, Context(tokens, None), layers=len(numbers))
            for kind, numbers in self.stacks().items()
        }
        return under(
            embed=declared(self._embedding(), tokens), **blocks, final_norm=declared(self._norm(), x),
            head=declared(Head(self.vocab_size, self.norm_eps), x),
        )  # fmt: skip

    def init(self, key: Key) -> Params:
        """Initial values: normal(0.02), what adds to the residual stream less by sqrt(2 · layers)."""
        return initialize(self.declarations(), key)

    def apply(self, params: Params, batch: Batch, *, key: Key | None = None) -> Outputs:
        """Outputs of a whole batch: logits are of the masked-language-model head."""
        where = context(batch)
        table: Any
        x, table = self._embedding().apply({"params": params["embed"]}, jnp.asarray(batch["tokens"], jnp.int32))
        x = dropout(x, self.dropout, None if key is None else keys.fold(key, "embed"))
        blocks = {kind: self._block(kind) for kind in self.stacks()}

        def layer(kind: str, p: Params, *inputs: Any) -> tuple[Array, Cache]:
            return blocks[kind].apply({"params": p}, *inputs)

        x, _ = through(self._kinds(), layer, params, x, where, None, key, whole=True)
        hidden: Any = self._norm().apply({"params": params["final_norm"]}, x)
        used: Any = Head(self.vocab_size, self.norm_eps).apply({"params": params["head"]}, hidden)
        return Outputs(hidden, Partial(_Scores(self.norm_eps), table=table, norm=params["head"]["norm"], **used))

    embed = parts.embed

    def prepared(self, params: Params, states: Array, out: tuple[str | None, ...]) -> Array:
        """Return what a head for labels reads of states [B,T,D]: dense, gelu and norm, as that of masked tokens."""
        x = exact_gelu(linear(states, params["head"]["kernel"], out=out))
        normed: Any = LayerNorm(self.norm_eps, bias=False).apply({"params": params["head"]["norm"]}, x)
        return normed

    def _kinds(self) -> tuple[str, ...]:
        rest = (LOCAL if i % self.global_every else GLOBAL for i in range(1, self.num_layers))
        return (FIRST, *rest)

    def _embedding(self) -> Embedding:
        return Embedding(self.vocab_size, self.embed_dim, self.norm_eps)

    def _norm(self) -> LayerNorm:
        return LayerNorm(self.norm_eps, bias=False)

    def _block(self, kind: str) -> Block:
        heads, size, out = self.num_heads, self.embed_dim // self.num_heads, residual(self)
        local = kind == LOCAL
        attention = SelfAttention(
            heads, heads, size, INIT, out, self.attention, causal=False,
            wavelengths=frequencies(size, self.local_theta if local else self.theta),
            window=self.window // 2 + 1 if local else None,
        )  # fmt: skip
        mlp = GatedMlp(self.mlp_dim or 3 * self.embed_dim // 2, INIT, out, exact_gelu)
        return Block(attention, mlp, self.dropout, self.norm_eps, first=kind == FIRST)


PRESETS = {
    "base": {"num_layers": 22, "embed_dim": 768, "num_heads": 12, "mlp_dim": 1152},
    "large": {"num_layers": 28, "embed_dim": 1024, "num_heads": 16, "mlp_dim": 2624},
}
"""Published sizes as fields of `ModernBert`; vocab_size 50368."""
