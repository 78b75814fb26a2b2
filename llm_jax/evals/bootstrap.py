"""How much a number depends on which rows were drawn: the bootstrap (Efron & Tibshirani 1993, §6.2, §13.3)."""

from collections.abc import Callable

import numpy as np

from llm_jax.evals.perplexity import Estimate


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    rows: np.ndarray,
    *,
    count: float | None = None,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Return a statistic of rows with its standard error and percentile interval over rows drawn with replacement.

    Args:
        statistic: rows [N, ...] -> a number.
        rows: the independent units [N, ...]: texts, questions, windows.
        count: what the number was counted over; by default N.
        level: the share of the draws between the ends of the interval.
        draws: how often N rows are drawn.
        seed: the same seed draws the same rows.
    """
    random, n = np.random.default_rng(seed), len(rows)
    found = np.array([statistic(rows[random.integers(0, n, n)]) for _ in range(draws)], np.float64)
    tail = 50 * (1 - level)
    low, high = np.percentile(found, [tail, 100 - tail])
    size = float(n if count is None else count)
    return Estimate(float(statistic(rows)), size, float(found.std(ddof=1)), (float(low), float(high)))
