"""OLMo 2 (OLMo et al. 2024): an RMSNorm after each part, none before, and one over all queries and over all keys."""

from dataclasses import dataclass, field
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float

from llm_jax.core import keys
from llm_jax.core.types import Cache, Key
from llm_jax.models import layers
from llm_jax.models.decoder import parts
from llm_jax.nn.attention import Context
from llm_jax.nn.dropout import dropout
from llm_jax.nn.norm import RmsNorm
from llm_jax.nn.rotary import Rope


class Block(nn.Module):
    """x + norm(attention(x)), then x + norm(mlp(x))."""

    attention: Any
    mlp: Any
    dropout: float
    eps: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], where: Context, layer: Any = 0, cache: Cache = None, key: Key | None = None
    ) -> tuple[Float[Array, "B T D"], Cache]:
        drop = [None, None] if key is None else [keys.fold(key, name, layer) for name in ("attention", "mlp")]
        y, cache = self.attention(x, where, layer, cache)
        x = x + dropout(RmsNorm(self.eps, name="attention_norm")(y), self.dropout, drop[0])
        y = RmsNorm(self.eps, name="mlp_norm")(self.mlp(x))
        return x + dropout(y, self.dropout, drop[1]), cache


@dataclass(frozen=True)
class Olmo2:
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
    rope: Rope = field(default_factory=lambda: Rope(theta=5e5))

    def __post_init__(self) -> None:
        parts.check(self)

    declarations = layers.declarations
    init = layers.init
    apply = layers.apply
    empty_cache = layers.empty_cache
    prefill = layers.prefill
    extend = layers.extend

    def _layers(self) -> layers.Layers:
        attention = parts.attention(self, norm=self.norm_eps, joint_norm=True)
        return parts.layers(self, Block(attention, parts.mlp(self), self.dropout, self.norm_eps))


PRESETS = {
    "1b": {"num_layers": 16, "embed_dim": 2048, "num_heads": 16, "mlp_dim": 8192},
    "7b": {"num_layers": 32, "embed_dim": 4096, "num_heads": 32, "mlp_dim": 11008},
    "13b": {"num_layers": 40, "embed_dim": 5120, "num_heads": 40, "mlp_dim": 13824},
    "32b": {"num_layers": 64, "embed_dim": 5120, "num_heads": 40, "num_kv_heads": 8, "mlp_dim": 27648},
}
"""Published sizes as fields of `Olmo2`; vocab_size 100352."""
