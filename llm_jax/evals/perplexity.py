"""Loss, perplexity and bits per byte, each with its count and standard error.

A window of text is the unit of sampling: tokens of one window depend on each other, so the error of a ratio of sums
is taken over windows (the linearised ratio estimator, Cochran 1977, eq. 6.13).
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from llm_jax.core.targets import targets_and_weights
from llm_jax.core.types import Array, Batch, Cache, Carries, Model, Outputs, Params
from llm_jax.kernels.cross_entropy import chunked


@dataclass(frozen=True)
class Estimate:
    """A number, what it was counted over, its standard error, and an interval where one was drawn (`bootstrap`)."""

    value: float
    count: float
    error: float
    interval: tuple[float, float] | None = None


def row_sums(model: Model, params: Params, batch: Batch) -> Array:
    """Return float32 [B,3]: for each row the sums of nats, of tokens and of bytes that carry weight.

    What the model charges beside (`Outputs.extras["nats"]`) is among the nats.
    """
    return _summed(model.apply(params, batch, key=None), batch)


def carried_sums(model: Carries, params: Params, batch: Batch, past: Cache) -> tuple[Array, Cache]:
    """Return `row_sums` of rows that go on from those that left `past`, and what these leave."""
    outputs, after = model.carry(params, batch, past)
    return _summed(outputs, batch), after


def _summed(outputs: Outputs, batch: Batch) -> Array:
    targets, weights = targets_and_weights(batch)
    nll = chunked(outputs.head, outputs.hidden, targets).nll
    return beside_counts((nll * weights).sum(1) + outputs.extras.get("nats", 0.0), batch)


def beside_counts(nats: Array, batch: Batch) -> Array:
    """Return float32 [B,3]: nats [B], and the tokens and bytes of each row that carry weight."""
    _, weights = targets_and_weights(batch)
    counted = jnp.asarray(batch.get("bytes", 0), jnp.float32) * (weights > 0)
    return jnp.stack([nats, weights.sum(1), counted.sum(1)], axis=1)


def perplexity(sums: Callable[[Batch], Array], batches: Iterable[Batch]) -> dict[str, Estimate]:
    """Return `loss` (nats a token), `perplexity` and, where batches carry bytes, `bits_per_byte`.

    Args:
        sums: batch -> [B,3], `row_sums` with model and parameters bound, jitted.
        batches: every target once; padding has weight 0.
    """
    rows = np.concatenate([np.asarray(sums(batch), np.float64) for batch in batches])
    rows = rows[rows[:, 1] > 0]
    loss = ratio(rows[:, 0], rows[:, 1])
    result = {
        "loss": loss,
        "perplexity": Estimate(math.exp(loss.value), loss.count, math.exp(loss.value) * loss.error),
    }
    if rows[:, 2].sum() > 0:
        result["bits_per_byte"] = ratio(rows[:, 0] / math.log(2), rows[:, 2])
    return result


def ratio(over: np.ndarray, under: np.ndarray) -> Estimate:
    """Return Σ over / Σ under with its standard error over rows."""
    n, total = len(over), float(under.sum())
    value = float(over.sum()) / total
    if n < 2:
        return Estimate(value, total, math.nan)
    spread = float(np.square(over - value * under).sum()) * n / (n - 1)
    return Estimate(value, total, math.sqrt(spread) / total)
