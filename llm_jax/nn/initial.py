"""Initial values: (key, shape) -> float32 array."""

import math

import jax
import jax.numpy as jnp

from llm_jax.core.types import Array, Key

# The standard deviation of a standard normal truncated to [-2, 2], to be divided out.
_TRUNCATED_STD = 0.87962566103423978


def zeros(key: Key, shape: tuple[int, ...]) -> Array:
    """All zeros."""
    return jnp.zeros(shape, jnp.float32)


def ones(key: Key, shape: tuple[int, ...]) -> Array:
    """All ones."""
    return jnp.ones(shape, jnp.float32)


def normal(std: float):
    """Normal with standard deviation `std` (GPT-2: 0.02)."""
    return lambda key, shape: std * jax.random.normal(key, shape, jnp.float32)


def fan_in(dims: int = 1, scale: float = 1.0):
    """Truncated normal with variance scale² / fan-in, where the first `dims` dimensions are contracted."""

    def draw(key: Key, shape: tuple[int, ...]) -> Array:
        std = scale / math.sqrt(math.prod(shape[:dims])) / _TRUNCATED_STD
        return std * jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)

    return draw
