"""Gemma 2 (Gemma Team 2024): local and global attention in turn, soft-caps, a norm before and after each part."""

from dataclasses import dataclass, field

from llm_jax.models import layers
from llm_jax.models.decoder.parts import check
from llm_jax.models.gemma import parts
from llm_jax.nn.rotary import Rope


@dataclass(frozen=True)
class Gemma2:
    """The section `model` of this family. None derives as in `Gemma`, and score_dim = head_dim.

    window: tokens that each sees in layers 0, 2, 4, …; the others see all. score_dim: scores are divided by its square
    root. score_cap, logit_cap: scores and logits are cap · tanh(· / cap); None for no cap.
    """

    vocab_size: int
    num_layers: int = 12
    embed_dim: int = 768
    num_heads: int = 4
    num_kv_heads: int | None = None
    head_dim: int = 256
    mlp_dim: int | None = None
    window: int = 4096
    score_dim: int | None = None
    score_cap: float | None = 50.0
    logit_cap: float | None = 30.0
    dropout: float = 0.0
    norm_eps: float = 1e-6
    attention: str = "auto"
    rope: Rope = field(default_factory=Rope)

    def __post_init__(self) -> None:
        caps = {"score_cap": self.score_cap, "logit_cap": self.logit_cap}
        check(self, score_dim=self.score_dim, **caps)

    declarations = layers.declarations
    stacks = layers.stacks
    init = layers.init
    apply = layers.apply
    empty_cache = layers.empty_cache
    prefill = layers.prefill
    extend = layers.extend

    def _layers(self) -> layers.Layers:
        attention = parts.attention(
            self, scale=(self.score_dim or self.head_dim) ** -0.5, softcap=self.score_cap,
            wavelengths=self.rope.frequencies(self.head_dim), amplitude=self.rope.growth,
        )  # fmt: skip
        block = parts.Block(attention, parts.mlp(self), self.dropout, self.norm_eps)
        blocks = {"local_blocks": block.clone(attention=attention.clone(window=self.window)), "global_blocks": block}
        kinds = tuple(("local_blocks", "global_blocks")[i % 2] for i in range(self.num_layers))
        return parts.layers(self, kinds, blocks, self.logit_cap)


PRESETS = {
    "2b": {"num_layers": 26, "embed_dim": 2304, "num_heads": 8, "num_kv_heads": 4, "mlp_dim": 9216},
    "9b": {"num_layers": 42, "embed_dim": 3584, "num_heads": 16, "num_kv_heads": 8, "mlp_dim": 14_336},
    "27b": {
        "num_layers": 46, "embed_dim": 4608, "num_heads": 32, "num_kv_heads": 16, "mlp_dim": 36_864, "head_dim": 128,
        "score_dim": 144,
    },
}  # fmt: skip
"""Published sizes as fields of `Gemma2`; vocab_size 256000."""
