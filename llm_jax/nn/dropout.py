"""Dropout (Srivastava et al. 2014) with an explicit key; no key, no dropout."""

import jax
import jax.numpy as jnp

from llm_jax.core.types import Array, Key


def dropout(x: Array, rate: float, key: Key | None) -> Array:
    """Return x with each element zeroed with probability `rate` and the rest scaled by 1 / (1 - rate)."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))
