"""Qwen 3 (Yang et al. 2025): Llama with an RMSNorm of each query and each key, and heads of a size of their own."""

from dataclasses import dataclass, field

from llm_jax.models import layers
from llm_jax.models.decoder import parts
from llm_jax.models.decoder.llama import Block
from llm_jax.nn.rotary import Rope


@dataclass(frozen=True)
class Qwen3:
    """The section `model` of this family. None derives as in `Llama`."""

    vocab_size: int
    num_layers: int = 12
    embed_dim: int = 768
    num_heads: int = 12
    num_kv_heads: int | None = None
    head_dim: int | None = 128
    mlp_dim: int | None = None
    tied: bool = False
    dropout: float = 0.0
    norm_eps: float = 1e-6
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
        attention = parts.attention(self, norm=self.norm_eps)
        return parts.layers(self, Block(attention, parts.mlp(self), self.dropout, self.norm_eps))


PRESETS = {
    "0.6b": {
        "num_layers": 28, "embed_dim": 1024, "num_heads": 16, "num_kv_heads": 8, "mlp_dim": 3072,
        "tied": True, "rope": {"theta": 1e6},
    },
    "1.7b": {
        "num_layers": 28, "embed_dim": 2048, "num_heads": 16, "num_kv_heads": 8, "mlp_dim": 6144,
        "tied": True, "rope": {"theta": 1e6},
    },
    "4b": {
        "num_layers": 36, "embed_dim": 2560, "num_heads": 32, "num_kv_heads": 8, "mlp_dim": 9728,
        "tied": True, "rope": {"theta": 1e6},
    },
    "8b": {
        "num_layers": 36, "embed_dim": 4096, "num_heads": 32, "num_kv_heads": 8, "mlp_dim": 12288,
        "rope": {"theta": 1e6},
    },
    "14b": {
        "num_layers": 40, "embed_dim": 5120, "num_heads": 40, "num_kv_heads": 8, "mlp_dim": 17408,
        "rope": {"theta": 1e6},
    },
    "32b": {
        "num_layers": 64, "embed_dim": 5120, "num_heads": 64, "num_kv_heads": 8, "mlp_dim": 25600,
        "rope": {"theta": 1e6},
    },
}  # fmt: skip
"""Published sizes as fields of `Qwen3`; vocab_size 151936."""
