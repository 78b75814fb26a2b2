"""What a model of n-grams knows of a text: the last few tokens before each; it is its cache, too."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from llm_jax.core.types import Batch, Cache
from llm_jax.nn import cache as caches
from llm_jax.nn.cache import Part


def contexts(batch: Batch, known: int, none: int) -> Int[Array, "B T K"]:
    """Return the last `known` tokens up to each, of its own text; beyond its beginning stands `none`."""
    tokens = jnp.asarray(batch["tokens"], jnp.int32)
    segments = jnp.asarray(batch.get("segments", jnp.ones_like(tokens)))
    found = []
    for back in range(known - 1, -1, -1):
        earlier = jnp.pad(tokens, ((0, 0), (back, 0)), constant_values=none)[:, : tokens.shape[1]]
        of = jnp.pad(segments, ((0, 0), (back, 0)), constant_values=-1)[:, : tokens.shape[1]]
        found.append(jnp.where(of == segments, earlier, none))
    return jnp.stack(found, axis=-1)


def empty_cache(batch_size: int, known: int) -> Cache:
    """Return the cache of texts that have not begun."""
    return caches.recurrent(1, batch_size, {"last": Part((known,), (None,), jnp.int32)})


def read(
    tokens: Int[Array, "B T"], real: Bool[Array, "B T"], cache: Cache, none: int
) -> tuple[Int[Array, "B T K"], Cache]:
    """Return the contexts of tokens that follow those in the cache, and the cache after them."""
    before = cache.read(0)["last"] + none  # kept so that zeros are no tokens
    row = jnp.concatenate([before, jnp.where(real, tokens, none)], axis=1)
    T, known = tokens.shape[1], before.shape[1]
    found = jnp.stack([row[:, i : i + T] for i in range(1, known + 1)], axis=-1)
    return found, cache.write(0, {"last": row[:, T:] - none}).advance(real)
