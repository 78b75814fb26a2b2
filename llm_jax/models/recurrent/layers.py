"""What LSTM and GRU language models share: functions of a family, a frozen dataclass with a `_cell()`."""

import math
from typing import Any

import jax.numpy as jnp
from jax.tree_util import Partial

from llm_jax.core import checks, keys
from llm_jax.core.types import Array, Batch, Cache, Declaration, Key, Outputs, Params
from llm_jax.models.decoder.llama import Table
from llm_jax.nn.attention import Context, context
from llm_jax.nn.declare import declarations as declared
from llm_jax.nn.declare import initialize, under
from llm_jax.nn.linear import embed, logits
from llm_jax.nn.recurrent import state as states
from llm_jax.nn.recurrent.cells import RecurrentLayer, variational
from llm_jax.nn.stack import stack

Family = Any


def check(model: Family) -> None:
    """Refuse sizes that make no model.

    Raises:
        UserError: names the field and its value.
    """
    checks.positive("model", vocab_size=model.vocab_size, num_layers=model.num_layers, embed_dim=model.embed_dim)
    checks.fraction("model", dropout=model.dropout, recurrent_dropout=model.recurrent_dropout)


def declarations(model: Family) -> dict[str, Declaration]:
    """Every parameter by path."""
    x, where = jnp.zeros((1, 1, model.embed_dim)), Context(jnp.zeros((1, 1), jnp.int32), None)
    parts = {"embed": declared(_table(model)), "blocks": declared(_layer(model), x, where, layers=model.num_layers)}
    return under(**parts) if model.tied else under(**parts, head=declared(_table(model)))


def init(model: Family, key: Key) -> Params:
    """Initial values: kernels of variance 1/fan-in, embeddings normal(0.02)."""
    return initialize(model.declarations(), key)


def apply(model: Family, params: Params, batch: Batch, *, key: Key | None = None) -> Outputs:
    """Outputs of a whole batch."""
    return _forward(model, params, batch, context(batch), None, key)[0]


def empty_cache(model: Family, batch_size: int, max_len: int) -> Cache:
    """A cache for texts of any length: `max_len` changes nothing."""
    return states.empty(model.num_layers, batch_size, model._cell().state(model.embed_dim))


def prefill(model: Family, params: Params, batch: Batch, cache: Cache) -> tuple[Outputs, Cache]:
    """Read whole prompts into an empty cache."""
    return _forward(model, params, batch, context(batch, cache, prompt=True), cache, None)


def extend(model: Family, params: Params, tokens: Array, cache: Cache) -> tuple[Outputs, Cache]:
    """Read tokens [B,n] that follow those in the cache."""
    batch = {"tokens": tokens}
    return _forward(model, params, batch, context(batch, cache), cache, None)


def carry(model: Family, params: Params, batch: Batch, cache: Cache, key: Key | None = None) -> tuple[Outputs, Cache]:
    """Outputs of a batch whose rows go on from those that left the cache, and the cache after it."""
    return _forward(model, params, batch, context(batch, cache), cache, key)


def _forward(
    model: Family, params: Params, batch: Batch, where: Context, cache: Cache, key: Key | None
) -> tuple[Outputs, Cache]:
    table: Any = _table(model).apply({"params": params["embed"]})
    x, block = embed(table, jnp.asarray(batch["tokens"], jnp.int32)), _layer(model)
    x = x * jnp.asarray(math.sqrt(model.embed_dim), x.dtype)  # else the gates of a new model barely see the token

    def layer(p: Params, *inputs: Any) -> tuple[Array, Cache]:
        return block.apply({"params": p}, *inputs)

    x, cache = stack(layer, params["blocks"], x, where, cache, key, whole=cache is None)
    hidden = variational(x, model.dropout, None if key is None else keys.fold(key, "output"), axis=1)
    head: Any = table if model.tied else _table(model).apply({"params": params["head"]})
    return Outputs(hidden, Partial(logits, table=head)), cache and cache.advance(where.real())


def _table(model: Family) -> Table:
    return Table(model.vocab_size, model.embed_dim, model.embed_dim**-0.5)


def _layer(model: Family) -> RecurrentLayer:
    return RecurrentLayer(model._cell(), model.dropout, model.recurrent_dropout)
