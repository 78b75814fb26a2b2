"""Rotary position embedding (Su et al. 2021, §3.4.2), in the half-split order of Llama."""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from llm_jax.core import checks
from llm_jax.core.table import UserError


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
    """The section `model.rope`: wavelengths, and how they were stretched for texts longer than the first ones.

    theta: their base, in positions. factor: by how much they were stretched, 1 for not at all. original: positions of
    the first training, where only wavelengths are stretched that turn less than `high` times within these, the more so
    the fewer turns, and by the whole factor below `low` turns (Grattafiori et al. 2024, Llama 3.1); None stretches all
    (Chen et al. 2023, position interpolation).
    """

    theta: float = 10_000.0
    factor: float = 1.0
    original: int | None = None
    low: float = 1.0
    high: float = 4.0

    def __post_init__(self) -> None:
        checks.positive("model.rope", **vars(self))
        if self.low >= self.high:
            raise UserError(f"model.rope.low={self.low} must be below model.rope.high={self.high}, in turns")

    def frequencies(self, head_dim: int) -> Float[Array, "K/2"]:
        """Return radians a position."""
        plain = frequencies(head_dim, self.theta)
        if self.original is None:
            return plain / self.factor
        turns = self.original * plain / (2 * math.pi)
        kept = jnp.clip((turns - self.low) / (self.high - self.low), 0, 1)
        return plain / self.factor * (1 - kept) + plain * kept


@dataclass(frozen=True)
class Yarn:
    """The section `model.rope` of models whose context was stretched by YaRN (Peng et al. 2023).

    factor: by how much, 1 for not at all. original: positions of the first training. fast, slow: turns within these
    that a wavelength makes where stretching begins and where it is whole. truncate: whether the two bounds are rounded
    to whole dimensions. mscale, mscale_all: how the scores grow with log(factor) (DeepSeek-V2's two factors), or None.
    """

    theta: float = 10_000.0
    factor: float = 1.0
    original: int = 4096
    fast: float = 32.0
    slow: float = 1.0
    truncate: bool = True
    mscale: float | None = None
    mscale_all: float | None = None

    def __post_init__(self) -> None:
        checks.positive(
            "model.rope", theta=self.theta, factor=self.factor, original=self.original, fast=self.fast, slow=self.slow
        )

    def frequencies(self, head_dim: int) -> Float[Array, "K/2"]:
        """Return radians a position: §3.2's mean of stretched and plain ones by the turns that each makes."""
        plain, half = frequencies(head_dim, self.theta), head_dim // 2
        if self.factor == 1.0:
            return plain
        low, high = (self._dimension(turns, head_dim) for turns in (self.fast, self.slow))
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        stretched = jnp.clip((jnp.arange(half) - low) / ((high - low) or 1e-3), 0, 1)
        return plain * (1 - stretched) + plain / self.factor * stretched

    def _dimension(self, turns: float, head_dim: int) -> float:
        """The dimension whose wavelength makes so many turns within the original context."""
        return head_dim * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(self.theta))

    @property
    def amplitude(self) -> float:
        """By how much turned queries and keys are longer, each."""
        if self.mscale and self.mscale_all:
            return self._growth(self.mscale) / self._growth(self.mscale_all)
        return self._growth(1.0)

    @property
    def sharpness(self) -> float:
        """By how much all scores are multiplied beside that."""
        return self._growth(self.mscale_all) ** 2 if self.mscale_all else 1.0

    def _growth(self, slope: float) -> float:
        return 0.1 * slope * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0
