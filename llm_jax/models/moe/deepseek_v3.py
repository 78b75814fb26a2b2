"""DeepSeek-V3 (2024): latent attention, and after some dense layers experts beside shared ones, chosen by sigmoids."""

import math
from dataclasses import dataclass, field

from llm_jax.core import checks
from llm_jax.core.table import UserError
from llm_jax.core.types import Cache
from llm_jax.models import layers as family
from llm_jax.models.moe.latent import LatentAttention
from llm_jax.models.moe.layers import Block, DenseMlp, Layers
from llm_jax.nn import cache as caches
from llm_jax.nn.initial import normal
from llm_jax.nn.mlp import GatedMlp
from llm_jax.nn.moe.experts import Experts, SparseMlp
from llm_jax.nn.moe.router import Moe, SigmoidRouter
from llm_jax.nn.rotary import Yarn


@dataclass(frozen=True)
class Latent:
    """The section `model.latent`: sizes of `LatentAttention`. interleaved: how published weights order turned pairs."""

    rank: int = 512
    query_rank: int | None = 1536
    nope_dim: int = 128
    rope_dim: int = 64
    value_dim: int = 128
    interleaved: bool = True

    def __post_init__(self) -> None:
        checks.positive(
            "model.latent", rank=self.rank, query_rank=self.query_rank, nope_dim=self.nope_dim, rope_dim=self.rope_dim,
            value_dim=self.value_dim,
        )  # fmt: skip
        checks.even("model.latent", rope_dim=self.rope_dim)


@dataclass(frozen=True)
class Selection:
    """The section `model.selection`: how a token's experts are chosen and weighed; see `SigmoidRouter`.

    shared: experts that every token uses beside its own.
    """

    shared: int = 1
    groups: int = 1
    top_groups: int = 1
    renormalize: bool = True
    scale: float = 1.0
    pull: float = 1e-3

    def __post_init__(self) -> None:
        checks.positive("model.selection", groups=self.groups, top_groups=self.top_groups, scale=self.scale)
        checks.non_negative("model.selection", shared=self.shared, pull=self.pull)
        if self.top_groups > self.groups:
            raise UserError(
                f"model.selection.top_groups={self.top_groups} is above model.selection.groups={self.groups}"
            )


@dataclass(frozen=True)
class DeepseekV3:
    """The section `model` of this family: `dense_layers` layers of an mlp of mlp_dim, then layers with experts."""

    vocab_size: int
    num_layers: int = 12
    dense_layers: int = 1
    embed_dim: int = 768
    num_heads: int = 12
    mlp_dim: int = 2048
    tied: bool = False
    dropout: float = 0.0
    norm_eps: float = 1e-6
    attention: str = "auto"
    rope: Yarn = field(default_factory=Yarn)
    latent: Latent = field(default_factory=Latent)
    moe: Moe = field(default_factory=Moe)
    selection: Selection = field(default_factory=Selection)

    def __post_init__(self) -> None:
        checks.positive(
            "model", vocab_size=self.vocab_size, num_layers=self.num_layers, embed_dim=self.embed_dim,
            num_heads=self.num_heads, mlp_dim=self.mlp_dim, norm_eps=self.norm_eps,
        )  # fmt: skip
        checks.fraction("model", dropout=self.dropout)
        checks.non_negative("model", dense_layers=self.dense_layers)
        if self.dense_layers > self.num_layers:
            raise UserError(f"model.dense_layers={self.dense_layers} is above model.num_layers={self.num_layers}")
        self._check_groups()

    def _check_groups(self) -> None:
        groups, experts = self.selection.groups, self.moe.num_experts
        if experts % groups or (groups > 1 and experts < 2 * groups):
            raise UserError(
                f"model.moe.num_experts={experts} must be a multiple of model.selection.groups={groups}, two a group"
            )
        if self.moe.top_k > experts // groups * self.selection.top_groups:
            raise UserError(
                f"model.moe.top_k={self.moe.top_k} is more than model.selection.top_groups={self.selection.top_groups} "
                f"groups of {experts // groups} experts hold"
            )

    declarations = family.declarations
    stacks = family.stacks
    init = family.init
    apply = family.apply
    prefill = family.prefill
    extend = family.extend

    def empty_cache(self, batch_size: int, max_len: int) -> Cache:
        """A cache for `max_len` tokens: of each a turned key and a latent vector, whatever the number of heads."""
        return caches.full(self.num_layers, batch_size, max_len, 1, self.latent.rope_dim, self.latent.rank)

    def _layers(self) -> Layers:
        init, residual = normal(0.02), normal(0.02 / math.sqrt(2 * self.num_layers))
        sizes, moe, how = self.latent, self.moe, self.selection
        attention = LatentAttention(
            self.num_heads, sizes.nope_dim, sizes.rope_dim, sizes.value_dim, sizes.rank, sizes.query_rank, init,
            residual, wavelengths=self.rope.frequencies(sizes.rope_dim), amplitude=self.rope.amplitude,
            kernel=self.attention, interleaved=sizes.interleaved,
            scale=(sizes.nope_dim + sizes.rope_dim) ** -0.5 * self.rope.sharpness,
        )  # fmt: skip
        router = SigmoidRouter(
            moe.num_experts, moe.top_k, init, how.groups, how.top_groups, how.renormalize, how.scale, how.pull
        )
        shared = GatedMlp(how.shared * moe.mlp_dim, init, residual) if how.shared else None
        sparse = SparseMlp(router, Experts(moe.num_experts, moe.mlp_dim, init, residual), shared)
        dense = DenseMlp(GatedMlp(self.mlp_dim, init, residual), moe.num_experts)
        blocks = {
            kind: Block(attention, mlp, self.dropout, self.norm_eps)
            for kind, mlp in (("dense_blocks", dense), ("blocks", sparse))
        }
        kinds = ("dense_blocks",) * self.dense_layers + ("blocks",) * (self.num_layers - self.dense_layers)
        return Layers(self.vocab_size, self.embed_dim, kinds, blocks, moe, self.norm_eps, self.dropout, self.tied)


PRESETS = {
    "16b": {
        "num_layers": 27, "dense_layers": 1, "embed_dim": 2048, "num_heads": 16, "mlp_dim": 11264,
        "rope": {"theta": 50_000.0}, "latent": {"query_rank": None},
        "moe": {"num_experts": 64, "top_k": 6, "mlp_dim": 1408, "balance": 0.001},
        "selection": {"shared": 2, "scale": 2.446},
    },
    "671b": {
        "num_layers": 61, "dense_layers": 3, "embed_dim": 7168, "num_heads": 128, "mlp_dim": 18432,
        "rope": {"factor": 40.0, "mscale": 1.0, "mscale_all": 1.0},
        "moe": {"num_experts": 256, "top_k": 8, "mlp_dim": 2048, "balance": 0.0001},
        "selection": {"groups": 8, "top_groups": 4, "scale": 2.5},
    },
}  # fmt: skip
"""Sizes as fields of `DeepseekV3`: 671b is DeepSeek-V3's (vocab_size 129280), 16b is Moonlight's (163840)."""
