"""Qwen 3 MoE (Yang et al. 2025): normalised queries and keys, many small experts, dense layers wherever one wants."""

from dataclasses import dataclass, field

from llm_jax.core.table import UserError
from llm_jax.models import layers as family
from llm_jax.models.decoder import parts
from llm_jax.models.moe.layers import Block, DenseMlp, Layers
from llm_jax.nn.initial import normal
from llm_jax.nn.mlp import GatedMlp
from llm_jax.nn.moe.experts import Experts, SparseMlp
from llm_jax.nn.moe.router import Moe, SoftmaxRouter
from llm_jax.nn.rotary import Rope


@dataclass(frozen=True)
class Qwen3Moe:
    """The section `model` of this family. None derives: num_kv_heads = num_heads.

    Layers are dense (mlp_dim) that are named in `dense_layers`, counted from 0, or whose number, counted from 1, is no
    multiple of `sparse_step`. renormalize: whether the weights of a token's experts are made to add up to one.
    """

    vocab_size: int
    num_layers: int = 12
    embed_dim: int = 768
    num_heads: int = 12
    num_kv_heads: int | None = None
    head_dim: int = 128
    mlp_dim: int = 2048
    sparse_step: int = 1
    dense_layers: tuple[int, ...] = ()
    renormalize: bool = True
    tied: bool = False
    dropout: float = 0.0
    norm_eps: float = 1e-6
    attention: str = "auto"
    rope: Rope = field(default_factory=Rope)
    moe: Moe = field(default_factory=Moe)

    def __post_init__(self) -> None:
        parts.check(self, sparse_step=self.sparse_step)
        for layer in self.dense_layers:
            if not 0 <= layer < self.num_layers:
                raise UserError(
                    f"model.dense_layers={list(self.dense_layers)} names layer {layer}, and model.num_layers="
                    f"{self.num_layers} has those from 0 to {self.num_layers - 1}"
                )

    declarations = family.declarations
    stacks = family.stacks
    init = family.init
    apply = family.apply
    empty_cache = family.empty_cache
    prefill = family.prefill
    extend = family.extend

    def _kind(self, layer: int) -> str:
        sparse = layer not in self.dense_layers and (layer + 1) % self.sparse_step == 0
        return "blocks" if sparse else "dense_blocks"

    def _layers(self) -> Layers:
        init, residual = normal(0.02), parts.residual(self)
        attention = parts.attention(self, norm=self.norm_eps)
        moe = self.moe
        sparse = SparseMlp(
            SoftmaxRouter(moe.num_experts, moe.top_k, init, self.renormalize),
            Experts(moe.num_experts, moe.mlp_dim, init, residual),
        )
        dense = DenseMlp(GatedMlp(self.mlp_dim, init, residual), moe.num_experts)
        blocks = {
            kind: Block(attention, mlp, self.dropout, self.norm_eps)
            for kind, mlp in (("dense_blocks", dense), ("blocks", sparse))
        }
        kinds = tuple(map(self._kind, range(self.num_layers)))
        return Layers(self.vocab_size, self.embed_dim, kinds, blocks, moe, self.norm_eps, self.dropout, self.tied)


PRESETS = {
    "30b-a3b": {
        "num_layers": 48, "embed_dim": 2048, "num_heads": 32, "num_kv_heads": 4, "rope": {"theta": 1e6},
        "moe": {"num_experts": 128, "top_k": 8, "mlp_dim": 768, "balance": 0.001},
    },
    "235b-a22b": {
        "num_layers": 94, "embed_dim": 4096, "num_heads": 64, "num_kv_heads": 4, "rope": {"theta": 1e6},
        "moe": {"num_experts": 128, "top_k": 8, "mlp_dim": 1536, "balance": 0.001},
    },
}  # fmt: skip
"""Published sizes as fields of `Qwen3Moe`; vocab_size 151936."""
