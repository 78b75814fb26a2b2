"""Rotary position embedding (Su et al. 2021, §3.4.2), in the half-split order of Llama, and how it is stretched."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from llm_jax.core import checks
from llm_jax.core.table import UserError, choices, lookup

Frequencies = Float[Array, "N"] | Callable[[Int[Array, "B T"]], Float[Array, "B T N"]]
"""Radians a position; or, where these change as a text grows, a function of how long each token's text is."""


def frequencies(head_dim: int, theta: float = 10_000.0) -> Float[Array, "K/2"]:
    """Return theta^(-2i/K), radians a position."""
    return theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)


def rotate(
    x: Float[Array, "B T H K"],
    positions: Int[Array, "B T"],
    inverse_wavelengths: Float[Array, "*BT N"],
    amplitude: float = 1.0,
) -> Float[Array, "B T H K"]:
    """Return x with each pair (i, i + N) turned by position · frequency and made `amplitude` times as long, in float32.

    2N up to K pass as they are.
    """
    angle = positions.astype(jnp.float32)[:, :, None, None] * jnp.expand_dims(inverse_wavelengths, -2)
    cos, sin = amplitude * jnp.cos(angle), amplitude * jnp.sin(angle)
    N = inverse_wavelengths.shape[-1]
    first, second, rest = jnp.split(x.astype(jnp.float32), (N, 2 * N), axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1).astype(x.dtype)


KINDS = {
    "dynamic": "llm_jax.nn.rotary:dynamic",
    "linear": "llm_jax.nn.rotary:linear",
    "llama3": "llm_jax.nn.rotary:llama3",
    "longrope": "llm_jax.nn.rotary:longrope",
    "yarn": "llm_jax.nn.rotary:yarn",
}
"""Ways to stretch wavelengths: (section, turned dimensions of a head) -> frequencies."""
_HEEDED = {
    "dynamic": {"factor", "original"},
    "linear": {"factor"},
    "llama3": {"factor", "original", "low", "high"},
    "longrope": {"factor", "original", "short", "long", "amplitude"},
    "yarn": {"factor", "original", "low", "high", "truncate", "mscale", "mscale_all", "amplitude"},
}


@dataclass(frozen=True)
class Rope:
    """The section `model.rope`: wavelengths, and how they were stretched for texts longer than the first ones.

    theta: their base, in positions. kind: one of `KINDS`; None derives "llama3" where there is an `original`, else
    "linear". factor: by how much they were stretched, 1 for not at all. original: positions of the first training.
    low, high: turns within these below which a wavelength is stretched whole, and above which it is not; None derives
    1, and 4 for llama3, 32 for yarn. truncate, mscale, mscale_all: see `Yarn`. short, long: of longrope, by how much
    each pair's wavelength is stretched in texts of up to `original` tokens, and in longer ones. amplitude: by how much
    turned queries and keys are longer, each; None derives it from the factor, for yarn and longrope.

    The wavelengths of dynamic and longrope change as a text grows, all at once: those of a whole text are those of its
    length, also for its first tokens. A cache therefore keeps keys unturned, and turns all by the length that the text
    has by then (so Peng et al. 2023, §3.3, advise). What is decoded thus equals the reading of the whole text as long
    as no length is crossed at which wavelengths change (each beyond `original` for dynamic, `original` itself for
    longrope). From there on the scores are those of the new wavelengths, but what earlier tokens were in deeper layers
    stays as it was read; only reading the text again changes that. Each row, and each document in it, has its own
    length: what stands beside it does not matter.
    """

    theta: float = 10_000.0
    kind: str | None = None
    factor: float = 1.0
    original: int | None = None
    low: float | None = None
    high: float | None = None
    truncate: bool = True
    mscale: float | None = None
    mscale_all: float | None = None
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()
    amplitude: float | None = None

    def __post_init__(self) -> None:
        given = {f.name for f in fields(self) if getattr(self, f.name) != f.default}
        numbers = {n: v for n, v in vars(self).items() if n not in ("kind", "truncate", "short", "long")}
        checks.positive("model.rope", **numbers)
        for name in ("short", "long"):
            for number in getattr(self, name):
                checks.positive("model.rope", **{name: number})
        lookup(KINDS, self.chosen, "model.rope.kind")
        low, high = self.bounds
        if low >= high:
            raise UserError(f"model.rope.low={low} must be below model.rope.high={high}, in turns")
        if unheeded := given - {"theta", "kind"} - _HEEDED[self.chosen]:
            name = min(unheeded)
            raise UserError(
                f"model.rope.{name}={getattr(self, name)!r} says nothing to model.rope.kind={self.chosen!r}, which "
                f"heeds {choices(_HEEDED[self.chosen])}"
            )
        if "original" in _HEEDED[self.chosen] and self.original is None:
            raise UserError(f"model.rope.original is missing, the longest text before model.rope.kind={self.chosen!r}")

    @property
    def chosen(self) -> str:
        """The kind, derived where it is not given."""
        return self.kind or ("linear" if self.original is None else "llama3")

    @property
    def bounds(self) -> tuple[float, float]:
        """low and high, derived where they are not given."""
        return self.low or 1.0, self.high or (32.0 if self.chosen == "yarn" else 4.0)

    def frequencies(self, size: int) -> Frequencies:
        """Return those of a head of which `size` dimensions turn."""
        return lookup(KINDS, self.chosen, "model.rope.kind")(self, size)

    @property
    def growth(self) -> float:
        """The amplitude, derived where it is not given."""
        if self.amplitude is not None:
            return self.amplitude
        if self.chosen == "yarn":
            return _yarn(self).amplitude
        if self.chosen == "longrope" and self.factor > 1:
            return math.sqrt(1 + math.log(self.factor) / math.log(max(self.original or 2, 2)))
        return 1.0


def linear(rope: Rope, size: int) -> Float[Array, "N"]:
    """Stretch all alike (Chen et al. 2023, position interpolation)."""
    return frequencies(size, rope.theta) / rope.factor


def llama3(rope: Rope, size: int) -> Float[Array, "N"]:
    """Stretch those that make few turns within the original context (Grattafiori et al. 2024, Llama 3.1)."""
    plain, (low, high) = frequencies(size, rope.theta), rope.bounds
    turns = (rope.original or 0) * plain / (2 * math.pi)
    kept = jnp.clip((turns - low) / (high - low), 0, 1)
    return plain / rope.factor * (1 - kept) + plain * kept


def yarn(rope: Rope, size: int) -> Float[Array, "N"]:
    """Stretch as `Yarn` does."""
    return _yarn(rope).frequencies(size)


def dynamic(rope: Rope, size: int) -> Frequencies:
    """Raise the base with the length of the text once it exceeds the original context (NTK-aware, Peng et al. 2023)."""
    if size == 2:
        raise UserError("model.rope.kind='dynamic' needs more than one pair of dimensions of a head that turn")
    exponent = -jnp.arange(0, size, 2, dtype=jnp.float32) / size

    def at(lengths: Int[Array, "B T"]) -> Float[Array, "B T N"]:
        grown = jnp.maximum(lengths.astype(jnp.float32) / (rope.original or 1), 1.0)
        base = rope.theta * (rope.factor * grown - (rope.factor - 1)) ** (size / (size - 2))
        return base[..., None] ** exponent

    return at


def longrope(rope: Rope, size: int) -> Frequencies:
    """Stretch each pair by a factor of its own, one for short texts and one for long (Ding et al. 2024, LongRoPE).

    Raises:
        UserError: there are not as many factors as pairs.
    """
    for name in ("short", "long"):
        if len(getattr(rope, name)) != size // 2:
            found = len(getattr(rope, name))
            raise UserError(
                f"model.rope.{name} has {found} factors, but {size // 2} pairs of dimensions of a head turn"
            )
    short, long = (frequencies(size, rope.theta) / jnp.asarray(by, jnp.float32) for by in (rope.short, rope.long))
    return lambda lengths: jnp.where(lengths[..., None] > (rope.original or 0), long, short)


def _yarn(rope: Rope) -> "Yarn":
    low, high = rope.bounds
    return Yarn(
        rope.theta, rope.factor, rope.original or 1, high, low, rope.truncate, rope.mscale, rope.mscale_all
    )  # fmt: skip


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
