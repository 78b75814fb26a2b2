"""Lost work and the best time between checkpoints."""

import math

import pytest

from llm_jax.planning import failures

SECOND = 1 / 3600


@pytest.mark.parametrize(("save", "young"), [(0.5, 106), (5, 334), (60, 1156)])
def test_the_best_interval_is_near_youngs_for_short_saves(save, young):
    found = failures.best_interval(save * SECOND, 3.1) * 3600
    assert abs(found / young - 1) < 0.05


@pytest.mark.parametrize(("save", "mtbf"), [(5 * SECOND, 3.1), (60 * SECOND, 3.1), (0.2, 3.0)])
def test_no_other_interval_loses_less(save, mtbf):
    best = failures.best_interval(save, mtbf)
    least = failures.stretch(best, save, 0.1, mtbf)
    others = [failures.stretch(best * factor, save, 0.1, mtbf) for factor in (0.5, 0.8, 1.25, 2.0)]
    assert all(least < other for other in others)


@pytest.mark.parametrize(("interval", "save", "restart"), [(0.1, 0.01, 0.15), (0.5, 0.02, 0.3), (1.5, 0.1, 0.1)])
def test_ten_thousand_drawn_failures_lose_what_the_formula_says_within_two_percent(interval, save, restart):
    found = failures.simulated(interval, save, restart, 3.1, failures=10_000, seed=1)
    lost, expected = found - 1, failures.stretch(interval, save, restart, 3.1) - 1
    assert abs(found / (1 + expected) - 1) < 0.02
    assert abs(lost / expected - 1) < 0.06  # the lost part alone is drawn more coarsely


def test_twice_the_chips_fail_twice_as_often():
    one, two = (failures.expected(n, 50_000, 10 * SECOND, 0.2) for n in (256, 512))
    assert one.mtbf == 2 * two.mtbf
    assert one.goodput > two.goodput > 0.9


def test_a_job_that_fails_before_it_can_save_still_has_an_interval():
    assert failures.best_interval(10.0, 1.0) == 1.0
    assert math.isfinite(failures.stretch(1.0, 10.0, 0.1, 1.0))
