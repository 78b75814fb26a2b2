"""gpt-oss (OpenAI 2025): local and global attention in turn, both with sinks; experts with a clamped SwiGLU; biases."""

from dataclasses import dataclass, field
from functools import partial

from llm_jax.models import layers as family
from llm_jax.models.decoder import parts
from llm_jax.models.moe.layers import Block, Layers
from llm_jax.nn.attention import SelfAttention
from llm_jax.nn.initial import normal
from llm_jax.nn.moe.experts import Experts, SparseMlp, clamped_swiglu
from llm_jax.nn.moe.router import Moe, TopKRouter
from llm_jax.nn.rotary import Yarn


@dataclass(frozen=True)
class GptOss:
    """The section `model` of this family. None derives: num_kv_heads = num_heads.

    window: tokens that each sees in layers 0, 2, 4, …; the others see all. alpha, limit: see `clamped_swiglu`.
    """

    vocab_size: int
    num_layers: int = 12
    embed_dim: int = 768
    num_heads: int = 12
    num_kv_heads: int | None = None
    head_dim: int = 64
    window: int = 128
    tied: bool = False
    dropout: float = 0.0
    norm_eps: float = 1e-5
    attention: str = "auto"
    alpha: float = 1.702
    limit: float = 7.0
    rope: Yarn = field(default_factory=Yarn)
    moe: Moe = field(default_factory=Moe)

    def __post_init__(self) -> None:
        parts.check(self, alpha=self.alpha, limit=self.limit)

    declarations = family.declarations
    stacks = family.stacks
    init = family.init
    apply = family.apply
    empty_cache = family.empty_cache
    prefill = family.prefill
    extend = family.extend

    def _layers(self) -> Layers:
        init, residual = normal(0.02), parts.residual(self)
        attention = SelfAttention(
            self.num_heads, parts.kv_heads(self), self.head_dim, init, residual, self.attention, bias=True, sinks=True,
            wavelengths=self.rope.frequencies(self.head_dim), amplitude=self.rope.amplitude,
            scale=self.head_dim**-0.5 * self.rope.sharpness,
        )  # fmt: skip
        moe, activate = self.moe, partial(clamped_swiglu, alpha=self.alpha, limit=self.limit)
        mlp = SparseMlp(
            TopKRouter(moe.num_experts, moe.top_k, init),
            Experts(moe.num_experts, moe.mlp_dim, init, residual, activate, bias=True),
        )
        blocks = {
            "local_blocks": Block(attention.clone(window=self.window), mlp, self.dropout, self.norm_eps),
            "global_blocks": Block(attention, mlp, self.dropout, self.norm_eps),
        }
        kinds = tuple(("local_blocks", "global_blocks")[i % 2] for i in range(self.num_layers))
        return Layers(self.vocab_size, self.embed_dim, kinds, blocks, moe, self.norm_eps, self.dropout, self.tied)


_BOTH = {
    "embed_dim": 2880, "num_heads": 64, "num_kv_heads": 8,
    "rope": {"theta": 150_000.0, "factor": 32.0, "truncate": False},
}  # fmt: skip
PRESETS = {
    "20b": _BOTH | {"num_layers": 24, "moe": {"num_experts": 32, "top_k": 4, "mlp_dim": 2880}},
    "120b": _BOTH | {"num_layers": 36, "moe": {"num_experts": 128, "top_k": 4, "mlp_dim": 2880}},
}
"""Published sizes as fields of `GptOss`; vocab_size 201088."""
