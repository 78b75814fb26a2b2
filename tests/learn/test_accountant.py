"""Epsilon of DP-SGD beside dp-accounting's (golden/make_private.py), and what it may never promise."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace as Part
from typing import Any

import numpy as np
import pytest

from llm_jax.core.table import UserError
from llm_jax.learn.accountant import ORDERS, Accountant, divergence, epsilon
from llm_jax.run.report import promise

CASES = json.loads((Path(__file__).parents[1] / "golden/private.json").read_text())
COUNTED = Accountant(rate=0.02, noise=1.0, delta=1e-5, rows=2000, room=100)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['rate']}-{case['noise']}-{case['steps']}")
def test_epsilon_is_that_of_the_renyi_accountant_and_no_less_than_the_tight_one(case):
    """Theirs has orders between the whole ones too, which lower epsilon by less than a hundredth."""
    divergences = np.array([divergence(case["rate"], case["noise"], order) for order in ORDERS])
    found = epsilon(case["steps"] * divergences, case["delta"])
    assert case["tight"] < found and case["renyi"] - 1e-6 <= found < 1.01 * case["renyi"]


def test_less_noise_more_steps_and_a_larger_share_of_the_rows_cost_more():
    usual = COUNTED.epsilon(100)
    assert 0 < usual < COUNTED.epsilon(200) < math.inf and COUNTED.epsilon(0) == 0
    assert usual < replace(COUNTED, noise=0.8).epsilon(100) and usual < replace(COUNTED, rate=0.024).epsilon(100)
    assert usual < replace(COUNTED, delta=1e-6).epsilon(100)


def test_half_of_delta_is_kept_for_batches_that_have_too_little_room():
    divergences = 100 * COUNTED.divergences
    assert COUNTED.epsilon(100) == epsilon(divergences, COUNTED.delta / 2) > epsilon(divergences, COUNTED.delta)
    assert replace(COUNTED, room=55).epsilon(100) == math.inf  # 55 is 2.4 deviations above the 40 rows on average
    with pytest.raises(UserError, match=r"data.batch_size=55 .* data.poisson=40 rows"):
        replace(COUNTED, room=55).check(100)


def test_a_noise_that_promises_nothing_is_refused():
    assert replace(COUNTED, noise=0.05).epsilon(100) == math.inf
    with pytest.raises(UserError, match=r"private.noise=0.05 promises nothing after 100 steps"):
        replace(COUNTED, noise=0.05).check(100)
    COUNTED.check(100)


@pytest.mark.parametrize(
    ("kind", "begun", "told"),
    [
        ("bytes", None, "are not covered"),
        ("huggingface", None, "are not covered"),
        ("bpe", None, "the tokenizer was trained on the text, and is not covered"),
        ("bpe", "runs/public", "what it began from, the tokenizer too, is taken to be public"),
    ],
)
def test_what_is_not_covered_is_said(kind, begun, told):
    run: Any = Part(tokenizer=Part(kind=kind), sections=Part(data=Part(seq_len=128)))
    run.config = Part(values={"init_from": begun})
    assert promise(run, COUNTED, 100).endswith(told)
