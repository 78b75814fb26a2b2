"""Lengths of training as text."""

import pytest

from llm_jax.core import durations
from llm_jax.core.table import UserError

GOOD = {
    "2000 steps": (2000, "steps", 2000), "1 step": (1, "steps", 1), "2_000 steps": (2000, "steps", 2000),
    "2,000 steps": (2000, "steps", 2000), "2k steps": (2000, "steps", 2000), "1.5K steps": (1500, "steps", 1500),
    "1e3 steps": (1000, "steps", 1000), " 7steps ": (7, "steps", 7), "0.5 steps": (0.5, "steps", 1),
    "1.2B tokens": (1.2e9, "tokens", 4687500), "1M tokens": (1e6, "tokens", 3907), "256 tokens": (256, "tokens", 1),
    "257 tokens": (257, "tokens", 2), "100 examples": (100, "examples", 13), "3 epochs": (3, "epochs", 38),
    "0.1 epochs": (0.1, "epochs", 2), "150 s": (150, "s", None),
    "2 min": (2, "min", None), "1.5 hours": (1.5, "h", None),
}  # fmt: skip
BAD = [
    "", "steps", "2000", "-3 steps", "0 steps", "nan steps", "inf steps", "1e999 steps", "2 stpes", "2 Steps", "2 k",
    "two steps", "2 steps more", "1e-3 steps", "2..5 steps", "0x10 steps", None, 40, True,
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_a_duration_is_read_and_rounded_up_to_steps(text):
    value, unit, steps = GOOD[text]
    read = durations.parse(text)
    assert (read.value, read.unit) == (value, unit)
    assert read.steps(tokens_per_step=256, examples_per_step=8, examples_per_epoch=100) == steps
    assert (read.seconds is None) == (steps is not None)
    assert durations.parse(str(read)) == read


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_duration_is_refused_with_its_key(text):
    with pytest.raises(UserError, match=r"train\.duration="):
        durations.parse(text)


def test_seconds_are_counted_in_their_unit():
    assert [durations.parse(t).seconds for t in ("90 s", "1.5 min", "2 h")] == [90, 90, 7200]


def test_epochs_need_data_of_known_length():
    with pytest.raises(UserError, match="use steps or tokens"):
        durations.parse("3 epochs").steps(tokens_per_step=256, examples_per_step=8)


def test_whole_epochs_are_not_rounded_up_by_floating_point():
    for epochs in range(1, 60):
        steps = durations.parse(f"{epochs} epochs").steps(tokens_per_step=1, examples_per_step=7, examples_per_epoch=70)
        assert steps == 10 * epochs
