"""Marian (Junczys-Dowmunt et al. 2018): the first Transformer as OPUS-MT has it, with fixed waves for positions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from llm_jax.core.table import UserError, lookup
from llm_jax.core.types import Declaration, Params
from llm_jax.mesh.place import place
from llm_jax.models.seq2seq import parts, post_norm
from llm_jax.nn.initial import normal

ACTIVATIONS = {"gelu": "llm_jax.nn.mlp:exact_gelu", "relu": "jax.nn:relu", "swish": "jax.nn:silu"}


def waves(positions: Int[Array, "B T"], width: int) -> Float[Array, "B T D"]:
    """Return sin(p · w_i), then cos(p · w_i), with w_i = 10000^(-2i / D) (Vaswani et al. 2017, §3.5, not in turn)."""
    speed = 10_000 ** (-2 * jnp.arange(width // 2) / width)
    angles = positions[..., None] * speed
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


@dataclass(frozen=True)
class Marian:
    """The section `model` of this family. None derives: mlp_dim = 4 · embed_dim, encoder_layers = num_layers.

    num_layers: of the decoder. activation: a key of `ACTIVATIONS`. scaled, logits_bias: as of `Bart`.
    """

    vocab_size: int
    num_layers: int = 6
    embed_dim: int = 512
    num_heads: int = 8
    encoder_layers: int | None = None
    mlp_dim: int | None = None
    activation: str = "swish"
    scaled: bool = True
    logits_bias: bool = True
    dropout: float = 0.0
    attention: str = "auto"

    def __post_init__(self) -> None:
        post_norm.check(self)
        lookup(ACTIVATIONS, self.activation, "model.activation")
        if self.embed_dim % 2:
            raise UserError(f"model.embed_dim={self.embed_dim} must be even: half are sines, half cosines of positions")

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

    def _places(self, params: Params, side: str, x: Array, positions: Array) -> Array:
        return x + place(waves(positions, self.embed_dim).astype(x.dtype), "batch", "act_seq", "act_embed")

    def _placed(self) -> dict[str, Mapping[str, Declaration]]:
        return {}

    def _starts(self) -> tuple[Any, ...]:
        """Of Glorot & Bengio 2010; tokens as large as waves once they are scaled."""
        square = normal(self.embed_dim**-0.5)
        mlp = normal(math.sqrt(2 / (self.embed_dim + (self.mlp_dim or 4 * self.embed_dim))))
        return square, square, square, mlp, mlp

    def _activation(self) -> Any:
        return lookup(ACTIVATIONS, self.activation, "model.activation")


PRESETS = {"base": {"num_layers": 6, "embed_dim": 512, "num_heads": 8}}
"""Published sizes as fields of `Marian`: of OPUS-MT (Tiedemann & Thottingal 2020)."""
