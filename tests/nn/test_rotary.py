"""Frequencies of stretched rotary positions are those of `transformers`; see golden/make_dense_decoders.py."""

import json
from pathlib import Path

import numpy as np
import pytest

from llm_jax.core.table import UserError
from llm_jax.interop.configs import nested, rope
from llm_jax.nn.rotary import Rope

with np.load(Path(__file__).parents[1] / "golden" / "rope.npz") as arrays:
    GOLDEN = dict(arrays)
CASES = sorted({name.partition("/")[0] for name in GOLDEN})


@pytest.mark.parametrize("case", CASES)
def test_stretched_frequencies_are_those_of_transformers(case):
    wanted = GOLDEN[f"{case}/frequencies"]
    said = rope().read({"rope_parameters": json.loads(str(GOLDEN[f"{case}/parameters"]))})
    found = Rope(**nested(said)["rope"]).frequencies(2 * len(wanted))
    np.testing.assert_allclose(found, wanted, rtol=2e-6)


def test_both_ways_of_stretching_and_all_their_ranges_are_tested():
    """Frequencies that stay, that are stretched in part, and whole."""
    ratios = {case: GOLDEN[f"{case}/frequencies"] / Rope(**theta(case)).frequencies(size(case)) for case in CASES}
    assert np.allclose(ratios["linear"], 1 / 3)
    for case, factor in (("llama 3.1", 8), ("llama 3.2", 32), ("other bounds", 4)):
        whole, kept = np.isclose(ratios[case], 1 / factor), np.isclose(ratios[case], 1)
        assert whole.any() and kept.any() and not (whole | kept).all(), case


def theta(case):
    return {"theta": json.loads(str(GOLDEN[f"{case}/parameters"]))["rope_theta"]}


def size(case):
    return 2 * len(GOLDEN[f"{case}/frequencies"])


@pytest.mark.parametrize(("fields", "complaint"), [({"low": 4.0}, r"low=4.0.*high=4.0"), ({"factor": 0.0}, "factor=0")])
def test_bounds_that_make_no_sense_are_refused(fields, complaint):
    with pytest.raises(UserError, match=complaint):
        Rope(**fields)
