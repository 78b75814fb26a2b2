"""Which steps stay."""

import math

import pytest

from llm_jax.core.table import UserError
from llm_jax.store.retention import Keep, best, kept

LOSSES = {10: 3.0, 20: 1.0, 30: 2.0, 40: 2.5, 50: 2.6}
METRICS = {step: {"loss": loss} for step, loss in LOSSES.items()}


def test_the_last_few_stay():
    assert kept(METRICS, Keep(last=2)) == {40, 50}


def test_every_so_many_steps_stay_for_ever():
    assert kept(METRICS, Keep(last=1, every=20)) == {20, 40, 50}


def test_the_best_stays_however_old():
    assert kept(METRICS, Keep(last=1, best="loss")) == {20, 50}
    assert kept(METRICS, Keep(last=1, best="loss", mode="max")) == {10, 50}


def test_steps_without_the_metric_or_with_nan_are_never_best():
    odd = {1: {}, 2: {"loss": math.nan}, 3: {"loss": 9.0}, 4: {"loss": -math.inf}}
    assert best(odd, Keep(best="loss")) == 3
    assert best({1: {}}, Keep(best="loss")) is None
    assert best(METRICS, Keep()) is None


def test_the_first_of_equally_good_steps_is_best():
    assert best({5: {"a": 1.0}, 6: {"a": 1.0}}, Keep(best="a", mode="max")) == 5


@pytest.mark.parametrize("wrong", [{"last": 0}, {"every": 0}, {"mode": "least"}])
def test_a_senseless_policy_is_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Keep(**wrong)
