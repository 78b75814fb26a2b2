"""What a model of n-grams knows of a text: the last few tokens before each; it is its cache, too.

A model has `vocab_size`, `order` and `_outputs(params, contexts)`; the id after its last stands for no token.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from llm_jax.core.types import Batch, Cache, Outputs, Params
from llm_jax.nn.recurrent import state as states
from llm_jax.nn.recurrent.state import Part


def contexts(model: Any, batch: Batch) -> Int[Array, "B T K"]:
    """Return the last tokens up to each, of its own text; beyond its beginning stands the id after the last."""
    none = model.vocab_size
    tokens = jnp.asarray(batch["tokens"], jnp.int32)
    segments = jnp.asarray(batch.get("segments", jnp.ones_like(tokens)))
    found = []
    for back in range(known(model) - 1, -1, -1):
        earlier = jnp.pad(tokens, ((0, 0), (back, 0)), constant_values=none)[:, : tokens.shape[1]]
        of = jnp.pad(segments, ((0, 0), (back, 0)), constant_values=-1)[:, : tokens.shape[1]]
        found.append(jnp.where(of == segments, earlier, none))
    return jnp.stack(found, axis=-1)


def known(model: Any) -> int:
    """Tokens of a context of a model, at least one, so that it is an array."""
    return max(1, model.order - 1)


def empty_cache(model: Any, batch_size: int, max_len: int) -> Cache:
    """The last tokens of each row; `max_len` changes nothing."""
    return states.empty(1, batch_size, {"last": Part((known(model),), (None,), jnp.int32)})


def prefill(model: Any, params: Params, batch: Batch, cache: Cache) -> tuple[Outputs, Cache]:
    """Read whole prompts into an empty cache."""
    real = jnp.asarray(batch.get("segments", jnp.ones_like(batch["tokens"]))) > 0
    found, cache = read(jnp.asarray(batch["tokens"], jnp.int32), real, cache, model.vocab_size)
    return model._outputs(params, found), cache


def extend(model: Any, params: Params, tokens: Array, cache: Cache) -> tuple[Outputs, Cache]:
    """Read tokens [B,n] that follow those in the cache."""
    tokens = jnp.asarray(tokens, jnp.int32)
    found, cache = read(tokens, jnp.ones(tokens.shape, bool), cache, model.vocab_size)
    return model._outputs(params, found), cache


def read(
    tokens: Int[Array, "B T"], real: Bool[Array, "B T"], cache: Cache, none: int
) -> tuple[Int[Array, "B T K"], Cache]:
    """Return the contexts of tokens that follow those in the cache, and the cache after them."""
    before = cache.read(0)["last"] + none  # kept so that zeros are no tokens
    row = jnp.concatenate([before, jnp.where(real, tokens, none)], axis=1)
    T, K = tokens.shape[1], before.shape[1]
    found = jnp.stack([row[:, i : i + T] for i in range(1, K + 1)], axis=-1)
    return found, cache.write(0, {"last": row[:, T:] - none}).advance(real)
