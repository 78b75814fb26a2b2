"""Mistral (Jiang et al. 2023): Llama whose tokens see a window of those before them."""

from dataclasses import dataclass, field

from llm_jax.models import layers
from llm_jax.models.decoder import parts
from llm_jax.models.decoder.llama import Block
from llm_jax.nn.rotary import Rope


@dataclass(frozen=True)
class Mistral:
    """The section `model` of this family. None derives as in `Llama`.

    window: tokens that each sees, itself included; None for all.
    """

    vocab_size: int
    num_layers: int = 12
    embed_dim: int = 768
    num_heads: int = 12
    num_kv_heads: int | None = None
    head_dim: int | None = None
    mlp_dim: int | None = None
    window: int | None = None
    tied: bool = False
    dropout: float = 0.0
    norm_eps: float = 1e-5
    attention: str = "auto"
    rope: Rope = field(default_factory=Rope)

    def __post_init__(self) -> None:
        parts.check(self)

    declarations = layers.declarations
    init = layers.init
    apply = layers.apply
    empty_cache = layers.empty_cache
    prefill = layers.prefill
    extend = layers.extend

    def _layers(self) -> layers.Layers:
        attention = parts.attention(self, window=self.window)
        return parts.layers(self, Block(attention, parts.mlp(self), self.dropout, self.norm_eps))


PRESETS = {
    "7b": {
        "num_layers": 32, "embed_dim": 4096, "num_heads": 32, "num_kv_heads": 8, "mlp_dim": 14336,
        "window": 4096,
    },
    "7b-v0.3": {
        "num_layers": 32, "embed_dim": 4096, "num_heads": 32, "num_kv_heads": 8, "mlp_dim": 14336,
        "rope": {"theta": 1e6},
    },
}  # fmt: skip
"""Mistral 7B: the first, vocab_size 32000, and v0.3, vocab_size 32768, as fields of `Mistral`."""
