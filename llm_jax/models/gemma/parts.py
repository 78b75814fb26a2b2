"""What the three generations share: functions of a family, and the block of the later two."""

import math
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float

from llm_jax.core import keys
from llm_jax.core.types import Cache, Key
from llm_jax.models.decoder.parts import Family, kv_heads, residual
from llm_jax.models.layers import Layers
from llm_jax.nn.attention import Context, SelfAttention
from llm_jax.nn.dropout import dropout
from llm_jax.nn.initial import normal
from llm_jax.nn.mlp import GatedMlp, gelu
from llm_jax.nn.norm import ShiftedRmsNorm


class Block(nn.Module):
    """x + norm(attention(norm(x))), then x + norm(mlp(norm(x)))."""

    attention: Any
    mlp: Any
    dropout: float
    eps: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], where: Context, layer: Any = 0, cache: Cache = None, key: Key | None = None
    ) -> tuple[Float[Array, "B T D"], Cache]:
        drop = [None, None] if key is None else [keys.fold(key, name, layer) for name in ("attention", "mlp")]
        y, cache = self.attention(self._norm("attention_norm")(x), where, layer, cache)
        x = x + dropout(self._norm("after_attention_norm")(y), self.dropout, drop[0])
        y = self.mlp(self._norm("mlp_norm")(x))
        return x + dropout(self._norm("after_mlp_norm")(y), self.dropout, drop[1]), cache

    def _norm(self, name: str) -> ShiftedRmsNorm:
        return ShiftedRmsNorm(self.eps, name=name)


def attention(model: Family, **more: Any) -> SelfAttention:
    """The attention of a family, with `more` fields of `SelfAttention`."""
    heads = model.num_heads, kv_heads(model), model.head_dim
    return SelfAttention(*heads, normal(0.02), residual(model), model.attention, **more)


def mlp(model: Family) -> GatedMlp:
    """The GeGLU of a family, by default of 4 · embed_dim."""
    return GatedMlp(model.mlp_dim or 4 * model.embed_dim, normal(0.02), residual(model), gelu)


def layers(model: Family, kinds: tuple[str, ...], blocks: dict[str, Any], softcap: float | None = None) -> Layers:
    """All parts: embeddings are scaled by sqrt(width), and are the head too."""
    return Layers(
        model.vocab_size, model.embed_dim, kinds, blocks, ShiftedRmsNorm(model.norm_eps), model.dropout, tied=True,
        scale=math.sqrt(model.embed_dim), softcap=softcap,
    )  # fmt: skip
