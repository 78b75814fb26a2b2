"""The README's table of families has every family, fills every cell, and its numbers are small; `make families`."""

import sys
from pathlib import Path

import pytest

from benchmarks import families
from benchmarks.foreign import CASES, SMALL
from llm_jax.core.table import lookup
from llm_jax.interop.configs import MODEL_TYPES
from llm_jax.models import MODELS
from tests.laws.kinds import KINDS

README = Path(__file__).parent.parent / "README.md"
TEXT = README.read_text("utf-8").partition(families.BEGIN)[2].partition(families.END)[0]
HEAD, _, *ROWS = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in TEXT.strip().splitlines()]


def test_the_readme_has_a_row_for_each_family():
    assert [row[0] for row in ROWS] == [f"`{family}`" for family in families.FAMILIES]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("`"))
def test_every_cell_is_filled_and_every_difference_is_small(row):
    assert tuple(HEAD) == families.HEAD and len(row) == len(HEAD) and all(row)
    for number, most in zip(row[5:8], families.TOLERANCES.values(), strict=True):
        assert float(number) <= most


@pytest.mark.rotates(4)
@pytest.mark.parametrize("family", families.FAMILIES)
def test_the_sizes_in_the_readme_are_the_presets(family):
    (row,) = (row for row in ROWS if row[0] == f"`{family}`")
    table = sys.modules[lookup(MODELS, family, "model.name").__module__].PRESETS
    assert [size.partition(":")[0] for size in row[8].split(", ")] == list(table)
    assert row[8] == families.sizes(family)


def test_each_family_of_decoders_has_a_case_to_measure():
    assert set(KINDS["split"]) <= set(families.FAMILIES) == {MODEL_TYPES[s] for s in SMALL}


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", families.FAMILIES)
def test_logits_and_gradients_are_as_near_to_transformers_as_the_table_says(family, tmp_path):
    pytest.importorskip("transformers")
    case = next(case for case, (theirs, _) in CASES.items() if MODEL_TYPES[theirs] == family)
    seen = families.measure(case, tmp_path)
    assert {"hf"} <= seen.reads & seen.writes
    for name, most in families.TOLERANCES.items():
        assert getattr(seen, name) <= most, name
