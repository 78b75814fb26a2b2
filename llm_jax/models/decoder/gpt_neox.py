"""GPT-NeoX (Black et al. 2022): attention and mlp side by side, LayerNorms, biases, a part of each head turned."""

import math
from dataclasses import dataclass, field
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float

from llm_jax.core import checks, keys
from llm_jax.core.table import UserError
from llm_jax.core.types import Cache, Key
from llm_jax.models import layers
from llm_jax.nn.attention import Context, SelfAttention
from llm_jax.nn.dropout import dropout
from llm_jax.nn.initial import normal
from llm_jax.nn.mlp import Mlp, exact_gelu
from llm_jax.nn.norm import LayerNorm
from llm_jax.nn.rotary import Rope


class Block(nn.Module):
    """x + attention(norm(x)) + mlp(norm(x)), each with a norm of its own."""

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
        z = self.mlp(LayerNorm(self.eps, name="mlp_norm")(x))
        return x + dropout(y, self.dropout, drop[0]) + dropout(z, self.dropout, drop[1]), cache


@dataclass(frozen=True)
class GptNeoX:
    """The section `model` of this family. None derives: mlp_dim = 4 · embed_dim.

    rotary: the share of each head, embed_dim / num_heads, that turns with its position.
    """

    vocab_size: int
    num_layers: int = 12
    embed_dim: int = 768
    num_heads: int = 12
    mlp_dim: int | None = None
    rotary: float = 0.25
    tied: bool = False
    dropout: float = 0.0
    norm_eps: float = 1e-5
    attention: str = "auto"
    rope: Rope = field(default_factory=Rope)

    def __post_init__(self) -> None:
        checks.positive(
            "model", vocab_size=self.vocab_size, num_layers=self.num_layers, embed_dim=self.embed_dim,
            num_heads=self.num_heads, mlp_dim=self.mlp_dim, norm_eps=self.norm_eps,
        )  # fmt: skip
        checks.fraction("model", dropout=self.dropout)
        checks.divides("model", "num_heads", self.num_heads, "embed_dim", self.embed_dim)
        size = self.embed_dim // self.num_heads
        if self._turned % 2 or not 0 < self._turned <= size:
            raise UserError(
                f"model.rotary={self.rotary} turns {self._turned} of the {size} dimensions of a head; "
                f"these must be pairs, such as with {2 / size:g} or 1"
            )

    declarations = layers.declarations
    stacks = layers.stacks
    init = layers.init
    apply = layers.apply
    empty_cache = layers.empty_cache
    prefill = layers.prefill
    extend = layers.extend

    @property
    def _turned(self) -> int:
        return int(self.rotary * (self.embed_dim // self.num_heads))

    def _layers(self) -> layers.Layers:
        residual = normal(0.02 / math.sqrt(2 * self.num_layers))
        attention = SelfAttention(
            self.num_heads, self.num_heads, self.embed_dim // self.num_heads, normal(0.02), residual, self.attention,
            bias=True, wavelengths=self.rope.frequencies(self._turned), amplitude=self.rope.growth,
        )  # fmt: skip
        mlp = Mlp(self.mlp_dim or 4 * self.embed_dim, normal(0.02), residual, exact_gelu)
        blocks = {"blocks": Block(attention, mlp, self.dropout, self.norm_eps)}
        kinds, norm = ("blocks",) * self.num_layers, LayerNorm(self.norm_eps)
        return layers.Layers(self.vocab_size, self.embed_dim, kinds, blocks, norm, self.dropout, self.tied)


PRESETS = {
    "70m": {"num_layers": 6, "embed_dim": 512, "num_heads": 8},
    "160m": {"num_layers": 12, "embed_dim": 768, "num_heads": 12},
    "410m": {"num_layers": 24, "embed_dim": 1024, "num_heads": 16},
    "1b": {"num_layers": 16, "embed_dim": 2048, "num_heads": 8},
    "1.4b": {"num_layers": 24, "embed_dim": 2048, "num_heads": 16},
    "2.8b": {"num_layers": 32, "embed_dim": 2560, "num_heads": 32},
    "6.9b": {"num_layers": 32, "embed_dim": 4096, "num_heads": 32},
    "12b": {"num_layers": 36, "embed_dim": 5120, "num_heads": 40},
    "20b": {"num_layers": 44, "embed_dim": 6144, "num_heads": 64},
}
"""GPT-NeoX-20B, and below it Pythia (Biderman et al. 2023), as fields of `GptNeoX`.

vocab_size is 50304 up to 2.8b, 50432 for 6.9b and 20b, 50688 for 12b. With it they have 70,426,624, 162,322,944,
405,334,016, 1,011,781,632, 1,414,647,808, 2,775,208,960, 6,857,302,016, 11,846,072,320 and 20,554,567,680 parameters.
"""
