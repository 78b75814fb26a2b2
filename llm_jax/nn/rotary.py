"""Rotary position embedding (Su et al. 2021, §3.4.2), in the half-split order of Llama."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from llm_jax.core import checks


def frequencies(head_dim: int, theta: float = 10_000.0) -> Float[Array, "K/2"]:
    """Return theta^(-2i/K), radians a position."""
    return theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)


def rotate(
    x: Float[Array, "B T H K"], positions: Int[Array, "B T"], inverse_wavelengths: Float[Array, "K/2"]
) -> Float[Array, "B T H K"]:
    """Return x with each pair (i, i + K/2) turned by position · frequency, in float32."""
    angle = positions.astype(jnp.float32)[:, :, None, None] * inverse_wavelengths
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


@dataclass(frozen=True)
class Rope:
    """The section `model.rope`: `theta`, the base of the wavelengths in positions."""

    theta: float = 10_000.0

    def __post_init__(self) -> None:
        checks.positive("model.rope", theta=self.theta)
