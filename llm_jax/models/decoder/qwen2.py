"""Qwen 2 and 2.5 (Yang et al. 2024): Llama with biases of queries, keys and values, and of nothing else."""

from dataclasses import dataclass, field

from llm_jax.models import layers
from llm_jax.models.decoder import parts
from llm_jax.models.decoder.llama import Block
from llm_jax.nn.rotary import Rope


@dataclass(frozen=True)
class Qwen2:
    """The section `model` of this family. None derives as in `Llama`."""

    vocab_size: int
    num_layers: int = 12
    embed_dim: int = 768
    num_heads: int = 12
    num_kv_heads: int | None = None
    head_dim: int | None = None
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
        attention = parts.attention(self, bias=True, out_bias=False)
        return parts.layers(self, Block(attention, parts.mlp(self), self.dropout, self.norm_eps))


PRESETS = {
    "0.5b": {
        "num_layers": 24, "embed_dim": 896, "num_heads": 14, "num_kv_heads": 2, "mlp_dim": 4864,
        "tied": True, "rope": {"theta": 1e6},
    },
    "1.5b": {
        "num_layers": 28, "embed_dim": 1536, "num_heads": 12, "num_kv_heads": 2, "mlp_dim": 8960,
        "tied": True, "rope": {"theta": 1e6},
    },
    "3b": {
        "num_layers": 36, "embed_dim": 2048, "num_heads": 16, "num_kv_heads": 2, "mlp_dim": 11008,
        "tied": True, "rope": {"theta": 1e6},
    },
    "7b": {
        "num_layers": 28, "embed_dim": 3584, "num_heads": 28, "num_kv_heads": 4, "mlp_dim": 18944,
        "rope": {"theta": 1e6},
    },
    "14b": {
        "num_layers": 48, "embed_dim": 5120, "num_heads": 40, "num_kv_heads": 8, "mlp_dim": 13824,
        "rope": {"theta": 1e6},
    },
    "32b": {
        "num_layers": 64, "embed_dim": 5120, "num_heads": 40, "num_kv_heads": 8, "mlp_dim": 27648,
        "rope": {"theta": 1e6},
    },
    "72b": {
        "num_layers": 80, "embed_dim": 8192, "num_heads": 64, "num_kv_heads": 8, "mlp_dim": 29568,
        "rope": {"theta": 1e6},
    },
}  # fmt: skip
"""Qwen 2.5 as fields of `Qwen2`; vocab_size 151936 up to 3b, then 152064."""
