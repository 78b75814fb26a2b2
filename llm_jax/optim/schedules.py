"""Schedules: pure functions of the step t = 0, 1, … (a scalar or an array, traced or not) to the learning rate.

Each is peak · warm-up(t) · shape(t). The warm-up is min(1, (t+1)/(warmup_steps+1)): above zero at step 0, the peak at
t = warmup_steps. A shape that ends reaches end_fraction · peak at t = total_steps and stays there.
"""

from collections.abc import Callable

import jax.numpy as jnp

from llm_jax.core.types import Array

Schedule = Callable[[Array], Array]


def constant(peak: float, *, warmup_steps: int = 0) -> Schedule:
    """Return the schedule that stays at `peak` after the warm-up."""
    return lambda t: peak * _warmup(t, warmup_steps)


def linear(peak: float, total_steps: int, *, warmup_steps: int = 0, end_fraction: float = 0.0) -> Schedule:
    """Return a straight line from the peak to its `end_fraction`.

    Bergsma et al. 2025, "Straight to zero", arXiv:2502.15938.
    """

    def rate(t: Array) -> Array:
        fall = 1 - _progress(t, warmup_steps, total_steps)
        return peak * _warmup(t, warmup_steps) * _between(fall, end_fraction)

    return rate


def cosine(peak: float, total_steps: int, *, warmup_steps: int = 0, end_fraction: float = 0.1) -> Schedule:
    """Return half a cosine from the peak to its `end_fraction`.

    Loshchilov and Hutter 2017, "SGDR", arXiv:1608.03983.
    """

    def rate(t: Array) -> Array:
        fall = 0.5 * (1 + jnp.cos(jnp.pi * _progress(t, warmup_steps, total_steps)))
        return peak * _warmup(t, warmup_steps) * _between(fall, end_fraction)

    return rate


def wsd(
    peak: float, total_steps: int, *, warmup_steps: int = 0, decay_steps: int | None = None, end_fraction: float = 0.0
) -> Schedule:
    """Return warm-up, a stable plateau, and a straight decay over the last `decay_steps` (None: a fifth of the total).

    The plateau does not depend on the length: a run goes on from any checkpoint before the decay.
    Hu et al. 2024, "MiniCPM", arXiv:2404.06395; Hägele et al. 2024, arXiv:2405.18392.
    """
    start = total_steps - (total_steps // 5 if decay_steps is None else decay_steps)

    def rate(t: Array) -> Array:
        fall = 1 - _progress(t, start, total_steps)
        return peak * _warmup(t, warmup_steps) * _between(fall, end_fraction)

    return rate


def inverse_sqrt(peak: float, *, warmup_steps: int = 0) -> Schedule:
    """Return peak · sqrt(w / max(t, w)) with w = max(1, warmup_steps): no end has to be known.

    Vaswani et al. 2017, "Attention is all you need", arXiv:1706.03762, section 5.3.
    """
    w = max(1, warmup_steps)
    return lambda t: peak * _warmup(t, warmup_steps) * jnp.sqrt(w / jnp.maximum(jnp.float32(t), w))


def _warmup(t: Array, warmup_steps: int) -> Array:
    return jnp.minimum(1.0, (jnp.float32(t) + 1) / (warmup_steps + 1))


def _progress(t: Array, start: int, end: int) -> Array:
    """Return 0 until `start`, 1 from `end` on."""
    return jnp.clip((jnp.float32(t) - start) / max(1, end - start), 0.0, 1.0)


def _between(fall: Array, end_fraction: float) -> Array:
    """Return 1 where `fall` is 1 and end_fraction where it is 0."""
    return end_fraction + (1 - end_fraction) * fall
