"""PRNG keys with names: every use of randomness folds in what it is for and the step, so no split is hidden."""

import zlib

import jax
import jax.numpy as jnp

from llm_jax.core.types import Array, Key


def fold(key: Key, name: str, step: Array | int = 0) -> Key:
    """Return the key for the purpose `name` at `step` (a traced or plain integer)."""
    return jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF), step)


def of_rows(tokens: Array) -> Key:
    """Return a key for each row of tokens, [B,T] -> [B], that follows from the row alone, in whatever batch it is."""
    tokens = jnp.asarray(tokens, jnp.int32)
    odd = 2 * jnp.arange(tokens.shape[1], dtype=jnp.uint32) + jnp.uint32(0x9E3779B1)  # sets the places apart
    sums = (tokens.astype(jnp.uint32) * odd * odd).sum(1, dtype=jnp.uint32)
    return jax.vmap(lambda number: jax.random.fold_in(jax.random.key(0), number))(sums)
