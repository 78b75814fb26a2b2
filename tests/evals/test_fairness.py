"""Gaps between groups and calibration: worked by hand, and beside fairlearn and scikit-learn."""

import numpy as np
import pytest

from llm_jax.core.table import UserError
from llm_jax.evals.suites import fairness
from llm_jax.evals.suites.calibration import binned, expected_error

LABELS = [1, 1, 0, 0, 1, 1, 1, 0]
SAID = [1, 0, 1, 0, 1, 1, 1, 0]
GROUPS = ["a"] * 4 + ["b"] * 4


def test_gaps_between_groups_are_those_by_hand():
    assert fairness.demographic_parity(SAID, GROUPS) == 3 / 4 - 2 / 4
    assert fairness.equal_opportunity(LABELS, SAID, GROUPS) == 1 - 1 / 2
    assert fairness.equalized_odds(LABELS, [0, 1, 1, 0, 1, 1, 0, 0], GROUPS) == 1 / 2  # of false positives
    assert fairness.accuracy_gap(LABELS, SAID, GROUPS) == 1 - 2 / 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fairness.demographic_parity([0, 2], "ab"), "predictions hold 2"),
        (lambda: fairness.demographic_parity([0, 1], "a"), "2 predictions and 1 groups"),
        (lambda: fairness.equalized_odds([0, 1, 1], [0, 1, 1], "aab"), "group 'b' has no row"),
    ],
)
def test_what_has_no_gap_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_the_expected_error_is_guos_by_hand():
    confidence, correct = np.array([0.95, 0.91, 0.55, 0.52, 0.2]), np.array([1, 1, 0, 1, 0])
    by_hand = 2 / 5 * abs(1 - 0.93) + 2 / 5 * abs(0.5 - 0.535) + 1 / 5 * 0.2
    np.testing.assert_allclose(expected_error(binned(confidence, correct, bins=10)), by_hand, rtol=1e-12)
    edges = binned(np.array([0.0, 0.1, 0.1000001, 1.0]), np.ones(4), bins=10)[:, :, 0].argmax(1)
    assert edges.tolist() == [0, 0, 1, 9]  # (0.1, 0.2] is the second


@pytest.mark.oracle
def test_gaps_are_fairlearns_and_bins_scikit_learns():
    metrics, calibration = pytest.importorskip("fairlearn.metrics"), pytest.importorskip("sklearn.calibration")
    random = np.random.default_rng(0)
    labels, said, groups = (random.integers(0, k, 300) for k in (2, 2, 4))
    asked = {"sensitive_features": groups}
    assert fairness.demographic_parity(said, groups) == pytest.approx(
        metrics.demographic_parity_difference(labels, said, **asked)
    )
    assert fairness.equalized_odds(labels, said, groups) == pytest.approx(
        metrics.equalized_odds_difference(labels, said, **asked)
    )
    assert fairness.equal_opportunity(labels, said, groups) == pytest.approx(
        metrics.equal_opportunity_difference(labels, said, **asked)
    )
    confidence = random.random(300)
    correct = (random.random(300) < confidence**2).astype(int)
    share, mean = calibration.calibration_curve(correct, confidence, n_bins=15)
    sizes = np.bincount(np.minimum((confidence * 15).astype(int), 14), minlength=15)
    theirs = (sizes[sizes > 0] / 300 * np.abs(share - mean)).sum()
    assert expected_error(binned(confidence, correct)) == pytest.approx(theirs)
