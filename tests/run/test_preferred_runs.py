"""Learning preferences: from files to a run that stays close to where it began, and what is refused."""

import json
import math
import shutil

import pytest

from llm_jax import open_run
from llm_jax.cli import main
from llm_jax.run.exchange import compressed, pinned
from llm_jax.run.sections import Compress

PAIRS = [{"prompt": f"count {i}", "chosen": f"{i}, {i + 1}", "rejected": "no" * (i % 3 + 1)} for i in range(60)]
SMALL = "--config.model.num_layers=1"


@pytest.fixture
def flags(recipe, tmp_path):
    """The flags that learn preferences by dpo."""
    return flags_of(recipe, tmp_path)


def flags_of(recipe, folder):
    (folder / "my.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    return [
        "train", f"--config={recipe}", f"--workdir={folder / 'tuned'}", "--config.objective.name=dpo",
        "--config.data.source=files", f"--config.data.options={{'train': '{folder}/my.jsonl', 'held_out': 0.2}}",
        '--config.data.form={"name": "preferences"}', "--config.data.seq_len=32", "--config.log.every=1",
        "--config.eval.every=3", SMALL, "--config.train.duration=3 steps",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, recipe_in):
    """A base, and a run that learnt beside it and was stopped, after which the base was trained on."""
    folder = tmp_path_factory.mktemp("pinned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_JAX_CACHE", str(folder / "cache"))
        recipe, base = recipe_in(folder), folder / "base"
        learn = ["train", f"--config={recipe}", f"--workdir={base}", SMALL]
        train = [*flags_of(recipe, folder)[:-1], f"--config.init_from={base}"]
        assert main([*learn, "--config.train.duration=1 steps"]) == 0
        assert main([*train, "--config.train.duration=3 steps"]) == 0
        assert main([*learn, "--config.train.duration=2 steps"]) == 0
        assert open_run(base).steps == [1, 2]
    return folder, train


def test_a_run_begins_as_its_reference_and_leaves_it(tuned, flags, capsys):
    folder, _ = tuned
    rows = open_run(folder / "tuned").metrics
    first, *_, last = rows[rows.split == "train"].to_dict("records")
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5) and abs(first["margin"]) < 1e-4
    assert last["loss"] < first["loss"] and last["margin"] > 0 and last["accuracy"] > 0.5
    held = rows[rows.split == "validation"].to_dict("records")
    assert [row["step"] for row in held] == [0, 3] and 0 <= held[0]["accuracy"] <= 1
    assert (held[0]["accuracy_of_gains"], held[0]["margin"]) == (0.5, 0)  # it is its reference
    assert held[1]["accuracy_of_gains"] > 0.5 and held[1]["margin"] > 0
    other = [f"--config.objective.reference={folder / 'base'}", "--config.data.tokenizer={'name': 'characters'}"]
    assert main([*flags, *other]) == 2
    assert "has another tokenizer" in capsys.readouterr().err


def evaluated(workdir, capsys, *more):
    """{name: what `evaluate` prints of it}."""
    capsys.readouterr()
    assert main(["evaluate", f"--workdir={workdir}", *more]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    return {words[0]: float(words[1]) for words in lines}


def last_row(workdir):
    rows = open_run(workdir).metrics
    return rows[rows.split == "validation"].iloc[-1]


def test_a_run_goes_on_and_is_evaluated_beside_the_reference_that_it_began_with(tuned, capsys):
    folder, train = tuned
    for step in (3, 5):
        last, found = last_row(folder / "tuned"), evaluated(folder / "tuned", capsys)
        assert last.step == step and {"loss", "accuracy", "accuracy_of_gains", "margin"} < found.keys()
        for name, value in found.items():
            assert value == pytest.approx(last[name], abs=5.1e-5), name
        if step == 3:
            assert main([*train, "--config.train.duration=5 steps"]) == 0
            assert "accuracy per token" in capsys.readouterr().out
    alone = evaluated(folder / "tuned", capsys, "--without_reference")
    assert "margin" not in alone and alone["accuracy"] == found["accuracy"]


def test_a_smaller_model_keeps_its_reference(tuned):
    made = compressed.configuration(open_run(tuned[0] / "tuned"), Compress(quantize="int8"))
    assert made.values["objective"]["reference"] == str(tuned[0] / "base")


@pytest.mark.parametrize("how", ["another", "gone"])
def test_a_reference_that_is_not_what_it_was_is_told(tuned, capsys, how):
    folder, train = tuned
    path, step = folder / "tuned/run.json", folder / "base/checkpoints/1"
    if how == "gone":
        shutil.rmtree(step)
    else:
        path.write_text(
            path.read_text().replace(pinned.kept(open_run(folder / "tuned").workdir)["reference"]["digest"], "0" * 16)
        )
    ways = {
        "evaluate": ["evaluate", f"--workdir={folder / 'tuned'}"],
        "train": [*train, "--config.train.duration=9 steps"],
    }
    for verb, words in ways.items():
        assert main(words) == 2
        told = capsys.readouterr().err
        assert f"step 1 of {folder / 'base'}, its reference, which is {how}" in told
        assert f"put {step} back" in told and "beside step 2, in a new --workdir" in told
        assert ("--without_reference" in told) == (verb == "evaluate")


def test_what_needs_a_reference_says_so(flags, capsys):
    assert main(flags) == 2
    assert "objective.reference is missing" in capsys.readouterr().err
    pairs = ["--config.data.form={'name': 'pairs'}" if "data.form" in flag else flag for flag in flags]
    assert main(pairs) == 2
    assert "objective.name='dpo' reads 'rejected_tokens'" in capsys.readouterr().err
