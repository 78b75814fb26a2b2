"""Phi-3 (Abdin et al. 2024): in files of its own layout, else Llama with a window."""

from dataclasses import dataclass, field

from llm_jax.models import layers
from llm_jax.models.decoder import parts
from llm_jax.models.decoder.llama import Block
from llm_jax.nn.rotary import Rope


@dataclass(frozen=True)
class Phi3:
    """The section `model` of this family. None derives as in `Llama`.

    window: tokens that each sees, itself included; None for all. rotary: the share of each head that turns.
    """

    vocab_size: int
    num_layers: int = 12
    embed_dim: int = 768
    num_heads: int = 12
    num_kv_heads: int | None = None
    head_dim: int | None = None
    mlp_dim: int | None = None
    window: int | None = None
    rotary: float = 1.0
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
    "mini": {
        "num_layers": 32, "embed_dim": 3072, "num_heads": 32, "mlp_dim": 8192,
        "window": 2047,
    },
    "medium": {
        "num_layers": 40, "embed_dim": 5120, "num_heads": 40, "num_kv_heads": 10, "mlp_dim": 17920,
        "window": 2047,
    },
}  # fmt: skip
"""Phi-3 mini and medium, of contexts of 4096 tokens, as fields of `Phi3`; vocab_size 32064."""
