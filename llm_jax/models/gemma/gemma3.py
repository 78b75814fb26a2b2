"""Gemma 3 (Gemma Team 2025), for text: five local layers for each global one, norms of queries and keys, two bases."""

from dataclasses import dataclass, field

from llm_jax.core.table import UserError
from llm_jax.models import layers
from llm_jax.models.decoder.parts import check
from llm_jax.models.gemma import parts
from llm_jax.nn.norm import ShiftedRmsNorm
from llm_jax.nn.rotary import Rope, frequencies


@dataclass(frozen=True)
class Gemma3:
    """The section `model` of this family. None derives as in `Gemma2`.

    global_every: each so many-th layer sees all; the others a `window` of tokens, with rotary positions of base
    `local_theta`. rope: of the global ones.
    """

    vocab_size: int
    num_layers: int = 12
    embed_dim: int = 768
    num_heads: int = 4
    num_kv_heads: int | None = None
    head_dim: int = 256
    mlp_dim: int | None = None
    window: int = 1024
    global_every: int = 6
    score_dim: int | None = None
    dropout: float = 0.0
    norm_eps: float = 1e-6
    attention: str = "auto"
    rope: Rope = field(default_factory=lambda: Rope(theta=1e6))
    local_theta: float = 10_000.0

    def __post_init__(self) -> None:
        check(self, score_dim=self.score_dim, local_theta=self.local_theta)
        if self.global_every < 2:
            raise UserError(f"model.global_every={self.global_every} must be 2 or more: the first layer is local")

    declarations = layers.declarations
    stacks = layers.stacks
    init = layers.init
    apply = layers.apply
    empty_cache = layers.empty_cache
    prefill = layers.prefill
    extend = layers.extend

    def _layers(self) -> layers.Layers:
        attention = parts.attention(
            self, norm=self.norm_eps, norm_kind=ShiftedRmsNorm, scale=(self.score_dim or self.head_dim) ** -0.5,
            wavelengths=self.rope.frequencies(self.head_dim), amplitude=self.rope.growth,
        )  # fmt: skip
        local = attention.clone(
            window=self.window, wavelengths=frequencies(self.head_dim, self.local_theta), amplitude=1.0
        )
        block = parts.Block(attention, parts.mlp(self), self.dropout, self.norm_eps)
        blocks = {"local_blocks": block.clone(attention=local), "global_blocks": block}
        kinds = tuple(
            "local_blocks" if (i + 1) % self.global_every else "global_blocks" for i in range(self.num_layers)
        )
        return parts.layers(self, kinds, blocks)


PRESETS = {
    "270m": {
        "num_layers": 18, "embed_dim": 640, "num_heads": 4, "num_kv_heads": 1, "mlp_dim": 2048, "window": 512,
    },
    "1b": {
        "num_layers": 26, "embed_dim": 1152, "num_heads": 4, "num_kv_heads": 1, "mlp_dim": 6912, "window": 512,
    },
    "4b": {
        "num_layers": 34, "embed_dim": 2560, "num_heads": 8, "num_kv_heads": 4, "mlp_dim": 10_240,
        "rope": {"theta": 1e6, "factor": 8.0},
    },
    "12b": {
        "num_layers": 48, "embed_dim": 3840, "num_heads": 16, "num_kv_heads": 8, "mlp_dim": 15_360,
        "rope": {"theta": 1e6, "factor": 8.0},
    },
    "27b": {
        "num_layers": 62, "embed_dim": 5376, "num_heads": 32, "num_kv_heads": 16, "mlp_dim": 21_504, "head_dim": 128,
        "score_dim": 168, "rope": {"theta": 1e6, "factor": 8.0},
    },
}  # fmt: skip
"""Published sizes as fields of `Gemma3`; vocab_size 262144 for 270m and 1b, 262208 for the others."""
