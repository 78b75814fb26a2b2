"""What families after Llama share: functions of a family, a frozen dataclass with the fields of `Llama`.

`Llama` itself is written out whole, to be read first.
"""

import math
from typing import Any

from llm_jax.core import checks
from llm_jax.core.table import UserError
from llm_jax.models.layers import Layers
from llm_jax.nn.attention import SelfAttention
from llm_jax.nn.initial import normal
from llm_jax.nn.mlp import GatedMlp
from llm_jax.nn.norm import RmsNorm

Family = Any


def check(model: Family, **more: float | None) -> None:
    """Refuse sizes that make no model, and those of `more` that are not positive.

    Raises:
        UserError: names the field and its value.
    """
    sizes = ("vocab_size", "num_layers", "embed_dim", "num_heads", "num_kv_heads", "head_dim", "mlp_dim", "window")
    checks.positive("model", **{name: getattr(model, name, None) for name in (*sizes, "norm_eps")}, **more)
    checks.fraction("model", dropout=model.dropout)
    checks.divides("model", "num_kv_heads", kv_heads(model), "num_heads", model.num_heads)
    if model.head_dim is None:
        checks.divides("model", "num_heads", model.num_heads, "embed_dim", model.embed_dim)
    checks.even("model", head_dim=head_dim(model))
    if turned(model) % 2 or not 0 < turned(model) <= head_dim(model):
        raise UserError(
            f"model.rotary={model.rotary} turns {turned(model)} of the {head_dim(model)} dimensions of a head; "
            f"these must be pairs, such as with {2 / head_dim(model):g} or 1"
        )


def kv_heads(model: Family) -> int:
    """Heads of keys and values, by default one for each of queries."""
    return model.num_kv_heads or model.num_heads


def head_dim(model: Family) -> int:
    """The size of a head, by default embed_dim / num_heads."""
    return model.head_dim or model.embed_dim // model.num_heads


def turned(model: Family) -> int:
    """Dimensions of a head that turn with its position: its share `rotary`, of families that have one."""
    return int(getattr(model, "rotary", 1.0) * head_dim(model))


def attention(model: Family, **more: Any) -> SelfAttention:
    """The attention of a family: with rotary positions, and `more` fields of `SelfAttention`."""
    return SelfAttention(
        model.num_heads, kv_heads(model), head_dim(model), normal(0.02), residual(model), model.attention,
        wavelengths=model.rope.frequencies(turned(model)), amplitude=model.rope.growth, **more,
    )  # fmt: skip


def mlp(model: Family) -> GatedMlp:
    """The SwiGLU of a family, by default of 8/3 · embed_dim, up to a multiple of 64."""
    return GatedMlp(model.mlp_dim or 64 * math.ceil(8 * model.embed_dim / 3 / 64), normal(0.02), residual(model))


def residual(model: Family) -> Any:
    """Initial values of kernels whose results are added to the residual stream: normal(0.02 / sqrt(2L))."""
    return normal(0.02 / math.sqrt(2 * model.num_layers))


def layers(model: Family, block: Any) -> Layers:
    """All parts of a family whose layers are equal."""
    return Layers(
        model.vocab_size, model.embed_dim, ("blocks",) * model.num_layers, {"blocks": block}, RmsNorm(model.norm_eps),
        model.dropout, model.tied,
    )  # fmt: skip
