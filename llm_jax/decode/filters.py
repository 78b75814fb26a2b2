"""From logits to the distribution that is drawn from: temperature and the usual truncations, in Hugging Face's order.

Every setting is a traced array with one entry a row, so that changing one does not compile anew. Cut-offs are found
exactly and without sorting, by bisection over the bits of the logits; tokens that tie at a cut-off are all kept.
"""

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from llm_jax.core.table import UserError

NOTHING = -jnp.inf
BLOCK = 256
_LOWEST = -(2**31)


@dataclass(frozen=True)
class Sampling:
    """The section `sample`: how the next token is drawn.

    temperature: divides the logits; 0 takes the most probable token (greedy).
    top_k: only the k most probable tokens; None takes all.
    top_p: only the most probable tokens that together reach this probability (Holtzman et al. 2020).
    min_p: only tokens at least this fraction as probable as the best one (Nguyen et al. 2024).
    repetition_penalty: tokens that are in the text have positive logits divided, negative ones multiplied by this
        (Keskar et al. 2019, §4.1); 1 changes nothing.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number and not (value is None and field.name == "top_k"):
                raise UserError(f"sample.{field.name}={value!r} must be a number")
        _require(
            "temperature", self.temperature, 0 <= self.temperature < math.inf, "zero (greedy) or above, and finite"
        )
        whole = self.top_k is None or (isinstance(self.top_k, int) and self.top_k >= 1)
        _require("top_k", self.top_k, whole, "a whole number above zero, or None to keep all tokens")
        _require("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1 (which keeps all tokens)")
        _require("min_p", self.min_p, 0 <= self.min_p <= 1, "from 0 (which keeps all tokens) to 1")
        penalty = self.repetition_penalty
        _require("repetition_penalty", penalty, 0 < penalty < math.inf, "above zero and finite; 1 changes nothing")

    @property
    def greedy(self) -> bool:
        """Whether nothing is left to chance."""
        return self.temperature == 0

    def rows(self, batch_size: int) -> "Knobs":
        """Return the settings as arrays [B], the same for every row."""
        full = lambda value, dtype: jnp.full(batch_size, value, dtype)  # noqa: E731
        return Knobs(
            temperature=full(max(self.temperature, float(jnp.finfo(jnp.float32).tiny)), jnp.float32),
            top_k=full(min(self.top_k or 2**31 - 1, 2**31 - 1), jnp.int32),
            top_p=full(self.top_p, jnp.float32),
            min_p=full(self.min_p, jnp.float32),
            repetition_penalty=full(self.repetition_penalty, jnp.float32),
        )


def _require(name: str, value: object, holds: bool, must: str) -> None:
    if not holds:
        raise UserError(f"sample.{name}={value!r} must be {must}")


class Knobs(NamedTuple):
    """`Sampling` as arrays with one entry a row."""

    temperature: Float[Array, "B"]
    top_k: Int[Array, "B"]
    top_p: Float[Array, "B"]
    min_p: Float[Array, "B"]
    repetition_penalty: Float[Array, "B"]


def repetition(
    logits: Float[Array, "B V"], seen: Bool[Array, "B V"], penalty: Float[Array, "B"]
) -> Float[Array, "B V"]:
    """Make tokens that were `seen` less likely by their row's penalty."""
    each = penalty[:, None]
    return jnp.where(seen, jnp.where(logits > 0, logits / each, logits * each), logits)


def truncate(logits: Float[Array, "B V"], knobs: Knobs) -> Float[Array, "B V"]:
    """Return logits / temperature, shifted to a maximum of 0, with what top-k, top-p or min-p exclude at -inf."""
    logits = (logits - logits.max(axis=-1, keepdims=True)) / knobs.temperature[:, None]
    logits = _where_any(knobs.top_k < logits.shape[-1], top_k, logits, knobs.top_k)
    logits = _where_any(knobs.top_p < 1, top_p, logits, knobs.top_p)
    return min_p(logits, knobs.min_p)


def _where_any(active: Bool[Array, "B"], one, logits: Array, value: Array) -> Array:
    """Apply a filter only where some row asks for it: at run time, a filter that is off costs nothing."""
    return jax.lax.cond(active.any(), one, lambda x, _: x, logits, value)


def top_k(logits: Float[Array, "B V"], k: Int[Array, "B"]) -> Float[Array, "B V"]:
    """Keep each row's k greatest logits and what ties with the last of them."""
    return _keep_mass(logits, jnp.ones((), jnp.int32), k)


def top_p(logits: Float[Array, "B V"], p: Float[Array, "B"]) -> Float[Array, "B V"]:
    """Keep the fewest most probable tokens that together have at least probability p; all of them where p is 1."""
    kept = _keep_mass(logits, jax.nn.softmax(logits, axis=-1), p)
    return jnp.where(p[:, None] < 1, kept, logits)


def min_p(logits: Float[Array, "B V"], p: Float[Array, "B"]) -> Float[Array, "B V"]:
    """Keep the tokens that are at least p times as probable as the most probable one."""
    least = logits.max(axis=-1, keepdims=True) + jnp.log(p)[:, None]
    return jnp.where(logits < least, NOTHING, logits)


def _keep_mass(logits: Float[Array, "B V"], mass: Array, goal: Array) -> Float[Array, "B V"]:
    """Keep the logits from the greatest cut-off upwards at which the kept mass reaches the goal (all, if none does)."""
    order = _ordered(logits)

    def halve(step: Array, cutoff: Int[Array, "B"]) -> Int[Array, "B"]:
        higher = cutoff + jnp.left_shift(1, 31 - step)
        kept = jnp.where(order >= higher[:, None], mass, 0).sum(axis=-1)
        return jnp.where(kept >= goal, higher, cutoff)

    cutoff = jax.lax.fori_loop(0, 32, halve, jnp.full(logits.shape[0], _LOWEST, jnp.int32))
    return jnp.where(order >= cutoff[:, None], logits, NOTHING)


def draw(logits: Float[Array, "B V"], uniform: Float[Array, "B 2"]) -> Int[Array, "B"]:
    """Return a token of each row with probability softmax(logits), from two random numbers in [0, 1).

    The first chooses a block of `BLOCK` tokens, the second a token in it: a noise for every token of the vocabulary
    (the Gumbel trick) would cost more than a small model's whole step. Tokens at -inf are never drawn.
    """
    B, V = logits.shape
    mass = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    blocks = jnp.pad(mass, ((0, 0), (0, -V % BLOCK))).reshape(B, -1, BLOCK)
    block = _pass(blocks.sum(axis=-1), uniform[:, 0])
    return block * BLOCK + _pass(blocks[jnp.arange(B), block], uniform[:, 1])


def _pass(mass: Float[Array, "B N"], uniform: Float[Array, "B"]) -> Int[Array, "B"]:
    """Return the first place of mass above 0 at which the running sum exceeds that part of the whole."""
    reached = jnp.where(mass > 0, jnp.cumsum(mass, axis=-1), 0)
    return jnp.argmax(reached > (uniform * reached.max(axis=-1))[:, None], axis=-1)


def _ordered(x: Float[Array, "..."]) -> Int[Array, "..."]:
    """Return integers in the order of the floats: their bits, turned round where negative; both zeros are one."""
    bits = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0.0, x.astype(jnp.float32)), jnp.int32)
    return bits ^ (jnp.right_shift(bits, 31) & 0x7FFFFFFF)
