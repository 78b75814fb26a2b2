"""The ladder of language models has a rung for every family, and each of its recipes is a run."""

from pathlib import Path

import jax
import pytest

from experiments.ladder_of_language_models import report
from experiments.ladder_of_language_models.recipe import KINDS, get_config
from experiments.ladder_of_language_models.report import ordered, table
from experiments.ladder_of_language_models.sweep import RUNGS
from llm_jax.models import MODELS
from llm_jax.run import build
from llm_jax.run.config import resolve

READ = {"backoff", "tagger"}  # made of a file, or of tags
ROW = {"error": 0.01, "parameters": 1000, "tokens": 10, "cpu_seconds": 3.0, "tokens_per_second": None, "sample": ""}


def test_every_family_that_learns_text_has_a_rung():
    assert set(MODELS) - READ <= set(RUNGS)


@pytest.mark.parametrize("name", RUNGS)
def test_a_rung_is_a_run_of_about_a_million_parameters(name):
    config = resolve(get_config(name).to_dict())
    build.check(config)
    model = build.model(config, vocab_size=2048)
    if not name.startswith(("uniform", "unigram", "ngram")):
        sizes = [leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0)))]
        assert 1e5 < sum(sizes) < 4e6


def test_what_is_no_likelihood_stands_below_those_that_are():
    kinds = {"gan": "none: its samples under `ngram`", "uniform": "a likelihood", "llama": "a likelihood"}
    bits = {"gan": 9.0, "uniform": 8.0, "llama": 2.0}
    rows = [ROW | {"name": name, "kind": kind, "bits_per_byte": bits[name]} for name, kind in kinds.items()]
    assert [row["name"] for row in ordered(rows)] == ["uniform", "llama", "gan"]
    assert "| `llama` | a likelihood | 2.000 ± 0.010 | 1,000 | 10 | 3 |  |" in table(ordered(rows), 60)


def test_the_published_table_has_every_rung_and_each_likelihood_above_the_unigram_beats_it():
    lines = (Path(report.__file__).with_name("TABLE.md")).read_text().splitlines()
    rows = [
        [cell.strip() for cell in line.replace("`", "", 2).split("|")[1:-1]] for line in lines if line.startswith("| `")
    ]
    bits = {name: float(told.split()[0]) for name, _, told, *_ in rows}
    kinds = {name: kind for name, kind, *_ in rows}
    assert set(bits) == set(RUNGS) and all(kinds[name] == KINDS.get(name, "a likelihood") for name in RUNGS)
    beaten = [name for name in RUNGS if kinds[name] == "a likelihood" and bits[name] >= bits["unigram"]]
    assert beaten == ["uniform", "unigram"]
