"""What families of one stack of equal blocks share: functions of a family, which it takes as its methods.

A family is a frozen dataclass with the fields of `Llama` (and `window` and `rotary`, if it has them) and `_block()`,
the module of one layer. `Llama` itself is written out whole, to be read first.
"""

import math
from typing import Any

import jax.numpy as jnp
from jax.tree_util import Partial

from llm_jax.core import checks, keys
from llm_jax.core.table import UserError
from llm_jax.core.types import Array, Batch, Cache, Declaration, Key, Outputs, Params
from llm_jax.models.decoder.llama import Table
from llm_jax.nn import cache as caches
from llm_jax.nn import declare
from llm_jax.nn.attention import Context, SelfAttention, context
from llm_jax.nn.dropout import dropout
from llm_jax.nn.initial import normal
from llm_jax.nn.linear import embed, logits
from llm_jax.nn.mlp import GatedMlp
from llm_jax.nn.norm import RmsNorm
from llm_jax.nn.stack import stack

Family = Any


def check(model: Family) -> None:
    """Refuse sizes that make no model.

    Raises:
        UserError: names the field and its value.
    """
    sizes = ("vocab_size", "num_layers", "embed_dim", "num_heads", "num_kv_heads", "head_dim", "mlp_dim", "window")
    checks.positive("model", **{name: getattr(model, name, None) for name in (*sizes, "norm_eps")})
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


def declarations(model: Family) -> dict[str, Declaration]:
    """Every parameter by path."""
    x, where = jnp.zeros((1, 1, model.embed_dim)), Context(jnp.zeros((1, 1), jnp.int32), None)
    parts = {
        "embed": declare.declarations(_table(model)),
        "blocks": declare.declarations(model._block(), x, where, layers=model.num_layers),
        "final_norm": declare.declarations(RmsNorm(model.norm_eps), x),
    }
    return declare.under(**parts) if model.tied else declare.under(**parts, head=declare.declarations(_table(model)))


def init(model: Family, key: Key) -> Params:
    """Initial values, as they are declared."""
    return declare.initialize(model.declarations(), key)


def apply(model: Family, params: Params, batch: Batch, *, key: Key | None = None) -> Outputs:
    """Outputs of a whole batch."""
    return _forward(model, params, batch, context(batch), None, key)[0]


def empty_cache(model: Family, batch_size: int, max_len: int) -> Cache:
    """A cache for `max_len` tokens."""
    windows = (getattr(model, "window", None),) * model.num_layers
    return caches.windowed(windows, batch_size, max_len, kv_heads(model), head_dim(model))


def prefill(model: Family, params: Params, batch: Batch, cache: Cache) -> tuple[Outputs, Cache]:
    """Read whole prompts into an empty cache."""
    return _forward(model, params, batch, context(batch, cache, prompt=True), cache, None)


def extend(model: Family, params: Params, tokens: Array, cache: Cache) -> tuple[Outputs, Cache]:
    """Read tokens [B,n] that follow those in the cache."""
    batch = {"tokens": tokens}
    return _forward(model, params, batch, context(batch, cache), cache, None)


def _forward(
    model: Family, params: Params, batch: Batch, where: Context, cache: Cache, key: Key | None
) -> tuple[Outputs, Cache]:
    table: Any = _table(model).apply({"params": params["embed"]})
    x = embed(table, jnp.asarray(batch["tokens"], jnp.int32))
    x = dropout(x, model.dropout, None if key is None else keys.fold(key, "embed"))
    block = model._block()
    cache = cache and cache.reserve(where.real())

    def layer(p: Params, x: Array, index: Any, cache: Cache) -> tuple[Array, Cache]:
        return block.apply({"params": p}, x, where, index, cache, key)

    x, cache = stack(layer, params["blocks"], x, cache)
    hidden = RmsNorm(model.norm_eps).apply({"params": params["final_norm"]}, x)
    head: Any = table if model.tied else _table(model).apply({"params": params["head"]})
    return Outputs(hidden, Partial(logits, table=head)), cache and cache.advance(where.real())


def _table(model: Family) -> Table:
    return Table(model.vocab_size, model.embed_dim)
