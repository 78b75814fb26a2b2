"""Frequencies of stretched rotary positions are those of `transformers`; see golden/make_dense_decoders.py."""

import json
from pathlib import Path

import numpy as np
import pytest

from llm_jax.core.table import UserError
from llm_jax.interop.fields import nested
from llm_jax.interop.rope import rope
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


LONGROPE = {"kind": "longrope", "original": 16, "short": (1.0, 2.0), "long": (1.0, 2.0)}


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"low": 4.0}, r"low=4.0.*high=4.0"),
        ({"kind": "yarn", "original": 8, "low": 33.0}, r"low=33.0.*high=32.0"),
        ({"factor": 0.0}, "factor=0"),
        ({"kind": "longrop"}, "'longrop'.*mean 'longrope'"),
        ({"kind": "dynamic", "factor": 2.0}, "original is missing"),
        ({"factor": 2.0, "truncate": False}, "truncate=False says nothing to model.rope.kind='linear'"),
        (LONGROPE | {"mscale": 1.0}, "mscale=1.0 says nothing"),
        (LONGROPE | {"long": (1.0, -2.0)}, "long=-2.0"),
    ],
)
def test_what_makes_no_wavelengths_is_refused(fields, complaint):
    with pytest.raises(UserError, match=complaint):
        Rope(**fields)


def test_factors_that_are_not_as_many_as_pairs_are_refused():
    with pytest.raises(UserError, match=r"model.rope.short has 2 factors, but 3 pairs"):
        Rope(**LONGROPE).frequencies(6)
