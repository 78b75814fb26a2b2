"""Learning preferences: from files to a run that stays close to where it began, and what is refused."""

import json
import math

import pytest

from llm_jax import open_run
from llm_jax.cli import main

PAIRS = [{"prompt": f"count {i}", "chosen": f"{i}, {i + 1}", "rejected": "no" * (i % 3 + 1)} for i in range(60)]


@pytest.fixture
def flags(recipe, tmp_path):
    """The flags that learn preferences by dpo."""
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    return [
        "train", f"--config={recipe}", f"--workdir={tmp_path / 'tuned'}", "--config.objective.name=dpo",
        "--config.data.source=files", f"--config.data.options={{'train': '{tmp_path}/my.jsonl', 'held_out': 0.2}}",
        '--config.data.form={"name": "preferences"}', "--config.data.seq_len=32", "--config.log.every=1",
        "--config.eval.every=3", "--config.train.duration=3 steps",
    ]  # fmt: skip


def test_a_run_begins_as_its_reference_and_leaves_it(flags, recipe, tmp_path, capsys):
    base = tmp_path / "base"
    assert main(["train", f"--config={recipe}", f"--workdir={base}", "--config.train.duration=1 steps"]) == 0
    assert main([*flags, f"--config.init_from={base}"]) == 0
    rows = open_run(tmp_path / "tuned").metrics
    first, *_, last = rows[rows.split == "train"].to_dict("records")
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5) and abs(first["margin"]) < 1e-4
    assert last["loss"] < first["loss"] and last["margin"] > 0 and last["accuracy"] > 0.5
    held = rows[rows.split == "validation"].to_dict("records")
    assert [row["step"] for row in held] == [0, 3] and 0 <= held[0]["accuracy"] <= 1
    assert (held[0]["accuracy_of_gains"], held[0]["margin"]) == (0.5, 0)  # it is its reference
    assert held[1]["accuracy_of_gains"] > 0.5 and held[1]["margin"] > 0
    assert "accuracy per token" in capsys.readouterr().out
    other = [flag.replace("tuned", "other") for flag in flags]
    assert main([*other, f"--config.objective.reference={base}", "--config.data.tokenizer={'name': 'characters'}"]) == 2
    assert "has another tokenizer" in capsys.readouterr().err


def test_what_needs_a_reference_says_so(flags, capsys):
    assert main(flags) == 2
    assert "objective.reference is missing" in capsys.readouterr().err
    pairs = ["--config.data.form={'name': 'pairs'}" if "data.form" in flag else flag for flag in flags]
    assert main(pairs) == 2
    assert "objective.name='dpo' reads 'rejected_tokens'" in capsys.readouterr().err
