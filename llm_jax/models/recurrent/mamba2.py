"""Mamba-2 (Dao & Gu 2024): a stack of state-space mixers, each after an RMSNorm, with neither attention nor mlp."""

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.tree_util import Partial
from jaxtyping import Array, Float

from llm_jax.core import checks, keys
from llm_jax.core.table import UserError
from llm_jax.core.types import Batch, Cache, Declaration, Key, Outputs, Params
from llm_jax.models.decoder.llama import Table
from llm_jax.nn.attention import Context, context
from llm_jax.nn.declare import declarations, initialize, under
from llm_jax.nn.dropout import dropout
from llm_jax.nn.initial import fan_in
from llm_jax.nn.linear import embed, logits
from llm_jax.nn.norm import RmsNorm
from llm_jax.nn.recurrent import state as states
from llm_jax.nn.recurrent.ssm import Mamba2Mixer
from llm_jax.nn.stack import stack


class Block(nn.Module):
    """x + mixer(norm(x))."""

    mixer: Any
    dropout: float
    eps: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], where: Context, layer: Any = 0, cache: Cache = None, key: Key | None = None
    ) -> tuple[Float[Array, "B T D"], Cache]:
        y, cache = self.mixer(RmsNorm(self.eps, name="norm")(x), where, layer, cache)
        return x + dropout(y, self.dropout, None if key is None else keys.fold(key, "mixer", layer)), cache


@dataclass(frozen=True)
class Mamba2:
    """The section `model` of this family.

    None derives: num_heads = 2 · embed_dim / head_dim. num_groups: of heads that share B and C. conv_width: tokens that
    the convolution sees. kernel: of `kernels.SSD`.
    """

    vocab_size: int
    num_layers: int = 24
    embed_dim: int = 768
    num_heads: int | None = None
    head_dim: int = 64
    state_dim: int = 128
    num_groups: int = 1
    conv_width: int = 4
    tied: bool = True
    dropout: float = 0.0
    norm_eps: float = 1e-5
    kernel: str = "auto"

    def __post_init__(self) -> None:
        checks.positive(
            "model", vocab_size=self.vocab_size, num_layers=self.num_layers, embed_dim=self.embed_dim,
            num_heads=self.num_heads, head_dim=self.head_dim, state_dim=self.state_dim, num_groups=self.num_groups,
            conv_width=self.conv_width, norm_eps=self.norm_eps,
        )  # fmt: skip
        checks.fraction("model", dropout=self.dropout)
        if self.num_heads is None and 2 * self.embed_dim % self.head_dim:
            raise UserError(
                f"model.head_dim={self.head_dim} does not divide twice model.embed_dim={self.embed_dim}; "
                "choose one that does, or give model.num_heads"
            )
        checks.divides("model", "num_groups", self.num_groups, "num_heads", self._num_heads)

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
        """Initial values, as in the paper's code: variance 1/(3·fan-in), residual outputs scaled by 1/sqrt(L)."""
        return initialize(self.declarations(), key)

    def apply(self, params: Params, batch: Batch, *, key: Key | None = None) -> Outputs:
        """Outputs of a whole batch."""
        return self._forward(params, batch, context(batch), None, key)[0]

    def empty_cache(self, batch_size: int, max_len: int) -> Cache:
        """A cache for texts of any length: `max_len` changes nothing."""
        return states.empty(self.num_layers, batch_size, self._mixer().state())

    def prefill(self, params: Params, batch: Batch, cache: Cache) -> tuple[Outputs, Cache]:
        """Read whole prompts into an empty cache."""
        return self._forward(params, batch, context(batch, cache, prompt=True), cache, None)

    def extend(self, params: Params, tokens: Array, cache: Cache) -> tuple[Outputs, Cache]:
        """Read tokens [B,n] that follow those in the cache."""
        batch = {"tokens": tokens}
        return self._forward(params, batch, context(batch, cache), cache, None)

    def carry(self, params: Params, batch: Batch, cache: Cache, key: Key | None = None) -> tuple[Outputs, Cache]:
        """Outputs of a batch whose rows go on from those that left the cache, and the cache after it."""
        return self._forward(params, batch, context(batch, cache), cache, key)

    def _forward(
        self, params: Params, batch: Batch, where: Context, cache: Cache, key: Key | None
    ) -> tuple[Outputs, Cache]:
        table: Any = self._table().apply({"params": params["embed"]})
        x = embed(table, jnp.asarray(batch["tokens"], jnp.int32))
        block = self._block()

        def layer(p: Params, *inputs: Any) -> tuple[Array, Cache]:
            return block.apply({"params": p}, *inputs)

        x, cache = stack(layer, params["blocks"], x, where, cache, key, whole=cache is None)
        hidden = RmsNorm(self.norm_eps).apply({"params": params["final_norm"]}, x)
        head: Any = table if self.tied else self._table().apply({"params": params["head"]})
        return Outputs(hidden, Partial(logits, table=head)), cache and cache.advance(where.real())

    @property
    def _num_heads(self) -> int:
        return self.num_heads or 2 * self.embed_dim // self.head_dim

    def _table(self) -> Table:
        return Table(self.vocab_size, self.embed_dim)

    def _mixer(self) -> Mamba2Mixer:
        inner = fan_in(scale=1 / math.sqrt(3))
        residual = fan_in(dims=2, scale=1 / math.sqrt(3 * self.num_layers))
        return Mamba2Mixer(
            self._num_heads, self.head_dim, self.num_groups, self.state_dim, self.conv_width, inner, residual,
            self.kernel, self.norm_eps,
        )  # fmt: skip

    def _block(self) -> Block:
        return Block(self._mixer(), self.dropout, self.norm_eps)


PRESETS = {
    "130m": {"num_layers": 24, "embed_dim": 768},
    "370m": {"num_layers": 48, "embed_dim": 1024},
    "780m": {"num_layers": 48, "embed_dim": 1536},
    "1.3b": {"num_layers": 48, "embed_dim": 2048},
    "2.7b": {"num_layers": 64, "embed_dim": 2560},
    "7b": {"num_layers": 64, "embed_dim": 4096, "num_groups": 8, "tied": False},
}
"""Sizes as fields of `Mamba2`: 7b is Mamba-Codestral's, vocab_size 32768, the others are the paper's, vocab_size 50288.

With it they have 128,989,632, 368,346,624, 780,161,280, 1,343,757,312, 2,702,599,680 and 7,285,403,648 parameters.
"""
