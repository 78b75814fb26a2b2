"""Mixtral (Jiang et al. 2024): Llama whose every feed-forward layer is eight experts, two of which each token uses."""

from dataclasses import dataclass, field

from llm_jax.models import layers as family
from llm_jax.models.decoder import parts
from llm_jax.models.moe.layers import Block, Layers
from llm_jax.nn.initial import normal
from llm_jax.nn.moe.experts import Experts, SparseMlp
from llm_jax.nn.moe.router import Moe, SoftmaxRouter
from llm_jax.nn.rotary import Rope


@dataclass(frozen=True)
class Mixtral:
    """The section `model` of this family. None derives: num_kv_heads = num_heads, head_dim = embed_dim / num_heads.

    window: tokens that each sees, itself included; None for all.
    """

    vocab_size: int
    num_layers: int = 12
    embed_dim: int = 768
    num_heads: int = 12
    num_kv_heads: int | None = None
    head_dim: int | None = None
    window: int | None = None
    tied: bool = False
    dropout: float = 0.0
    norm_eps: float = 1e-5
    attention: str = "auto"
    rope: Rope = field(default_factory=Rope)
    moe: Moe = field(default_factory=Moe)

    def __post_init__(self) -> None:
        parts.check(self)

    declarations = family.declarations
    init = family.init
    apply = family.apply
    empty_cache = family.empty_cache
    prefill = family.prefill
    extend = family.extend

    def _layers(self) -> Layers:
        init, residual = normal(0.02), parts.residual(self)
        attention = parts.attention(self, window=self.window)
        moe = self.moe
        mlp = SparseMlp(
            SoftmaxRouter(moe.num_experts, moe.top_k, init), Experts(moe.num_experts, moe.mlp_dim, init, residual)
        )
        block = Block(attention, mlp, self.dropout, self.norm_eps)
        return Layers(
            self.vocab_size, self.embed_dim, ("blocks",) * self.num_layers, {"blocks": block}, moe, self.norm_eps,
            self.dropout, self.tied,
        )  # fmt: skip


PRESETS = {
    "8x7b": {
        "num_layers": 32, "embed_dim": 4096, "num_heads": 32, "num_kv_heads": 8,
        "rope": {"theta": 1e6}, "moe": {"num_experts": 8, "top_k": 2, "mlp_dim": 14336},
    },
    "8x22b": {
        "num_layers": 56, "embed_dim": 6144, "num_heads": 48, "num_kv_heads": 8,
        "rope": {"theta": 1e6}, "moe": {"num_experts": 8, "top_k": 2, "mlp_dim": 16384},
    },
}  # fmt: skip
"""Published sizes as fields of `Mixtral`; vocab_size 32000 and 32768."""
