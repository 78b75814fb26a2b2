"""Gemma (Gemma Team 2024): Llama's block with GeGLU, norms by 1 + their scale, embeddings scaled by sqrt(width)."""

from dataclasses import dataclass, field

from llm_jax.models import layers
from llm_jax.models.decoder.llama import Block
from llm_jax.models.decoder.parts import check
from llm_jax.models.gemma import parts
from llm_jax.nn.norm import ShiftedRmsNorm
from llm_jax.nn.rotary import Rope


@dataclass(frozen=True)
class Gemma:
    """The section `model` of this family. None derives: num_kv_heads = num_heads, mlp_dim = 4 · embed_dim."""

    vocab_size: int
    num_layers: int = 12
    embed_dim: int = 768
    num_heads: int = 4
    num_kv_heads: int | None = None
    head_dim: int = 256
    mlp_dim: int | None = None
    dropout: float = 0.0
    norm_eps: float = 1e-6
    attention: str = "auto"
    rope: Rope = field(default_factory=Rope)

    def __post_init__(self) -> None:
        check(self)

    declarations = layers.declarations
    stacks = layers.stacks
    init = layers.init
    apply = layers.apply
    empty_cache = layers.empty_cache
    prefill = layers.prefill
    extend = layers.extend

    def _layers(self) -> layers.Layers:
        attention = parts.attention(self, wavelengths=self.rope.frequencies(self.head_dim), amplitude=self.rope.growth)
        block = Block(attention, parts.mlp(self), self.dropout, self.norm_eps, ShiftedRmsNorm)
        return parts.layers(self, ("blocks",) * self.num_layers, {"blocks": block})


PRESETS = {
    "2b": {"num_layers": 18, "embed_dim": 2048, "num_heads": 8, "num_kv_heads": 1, "mlp_dim": 16_384},
    "7b": {"num_layers": 28, "embed_dim": 3072, "num_heads": 16, "mlp_dim": 24_576},
}
"""Published sizes as fields of `Gemma`; vocab_size 256000."""
