"""Intervals beside scipy's, which draws the same rows by the same seed."""

import numpy as np
from scipy import stats

from llm_jax.evals.bootstrap import bootstrap


def test_intervals_and_errors_are_scipys():
    rows = np.random.default_rng(1).gamma(2.0, size=(40, 2))
    for level in (0.9, 0.95):
        ours = bootstrap(lambda r: r[:, 0].sum() / r[:, 1].sum(), rows, level=level, draws=200, seed=3)
        theirs = stats.bootstrap(
            (rows[:, 0], rows[:, 1]), lambda a, b, axis: a.sum(axis) / b.sum(axis), paired=True, vectorized=True,
            n_resamples=200, confidence_level=level, method="percentile", rng=np.random.default_rng(3),
        )  # fmt: skip
        np.testing.assert_allclose(ours.interval, theirs.confidence_interval, rtol=1e-12)
        np.testing.assert_allclose(ours.error, theirs.standard_error, rtol=1e-12)
        assert ours.value == rows[:, 0].sum() / rows[:, 1].sum() and ours.count == 40


def test_of_a_mean_the_error_is_the_standard_error():
    values = np.random.default_rng(0).normal(size=400)
    found = bootstrap(np.mean, values, draws=2000)
    np.testing.assert_allclose(found.error, values.std(ddof=1) / 20, rtol=0.05)
    assert found.interval[0] < found.value < found.interval[1]
