"""BART (Lewis et al. 2020): the first Transformer with learned positions, normed embeddings, GELU, one table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from llm_jax.core import checks
from llm_jax.core.types import Declaration, Params
from llm_jax.models.seq2seq import parts, post_norm
from llm_jax.nn.declare import declarations, weight
from llm_jax.nn.initial import normal
from llm_jax.nn.linear import embed
from llm_jax.nn.mlp import exact_gelu
from llm_jax.nn.norm import LayerNorm

INIT = normal(0.02)


class Places(nn.Module):
    """norm(x + the vector of each position)."""

    max_positions: int

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], positions: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        table = weight(self, "positions", (self.max_positions, x.shape[-1]), (None, "embed"), INIT)
        return LayerNorm(post_norm.EPS, name="norm")(x + embed(table, positions))


@dataclass(frozen=True)
class Bart:
    """The section `model` of this family. None derives: mlp_dim = 4 · embed_dim, encoder_layers = num_layers.

    max_positions: of source and target each. num_layers: of the decoder. scaled: whether embeddings are multiplied by
    sqrt(embed_dim). logits_bias: whether logits have a bias (transformers' `final_logits_bias`, learnt here).
    """

    vocab_size: int
    max_positions: int
    num_layers: int = 6
    embed_dim: int = 768
    num_heads: int = 12
    encoder_layers: int | None = None
    mlp_dim: int | None = None
    scaled: bool = False
    logits_bias: bool = True
    dropout: float = 0.0
    attention: str = "auto"

    def __post_init__(self) -> None:
        checks.positive("model", max_positions=self.max_positions)
        post_norm.check(self)

    declarations = post_norm.declarations
    init = parts.init
    apply = parts.apply
    encode = parts.encode
    empty_cache = parts.empty_cache
    prefill = parts.prefill
    extend = parts.extend
    _block = post_norm.block
    _opened = post_norm.opened
    _where = post_norm.where
    _closed = post_norm.closed
    _headed = post_norm.headed
    _head_dim = property(post_norm.head_dim)

    def _places(self, params: Params, side: str, x: Array, positions: Array) -> Any:
        return parts.read(Places(self.max_positions), params, f"{side}_embed", x, positions)

    def _placed(self) -> dict[str, Mapping[str, Declaration]]:
        x, one = jnp.zeros((1, 1, self.embed_dim)), jnp.ones((1, 1), jnp.int32)
        found = declarations(Places(self.max_positions), x, one)
        return {"decoder_embed": found, "encoder_embed": found}

    def _starts(self) -> tuple[Any, ...]:
        return (INIT,) * 5

    def _activation(self) -> Any:
        return exact_gelu


PRESETS = {
    "base": {"num_layers": 6, "embed_dim": 768, "num_heads": 12},
    "large": {"num_layers": 12, "embed_dim": 1024, "num_heads": 16},
}
"""Published sizes as fields of `Bart`; vocab_size 50265, max_positions 1024."""
