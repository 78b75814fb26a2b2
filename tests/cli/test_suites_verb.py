"""Suites from the command line: while a model trains, from its workdir, and what is refused before anything is read."""

import json

import pytest

from llm_jax import open_run
from llm_jax.cli import main

ROW = {"question": "the people of the", "choices": ["union", "zzzz"], "answer": 0}


@pytest.fixture
def quiz(tmp_path):
    (tmp_path / "quiz.jsonl").write_text((json.dumps(ROW) + "\n") * 3)
    return tmp_path / "quiz.jsonl"


def test_suites_are_asked_at_each_evaluation_and_from_the_workdir(recipe, tmp_path, quiz, capsys):
    run, asked = tmp_path / "run", ["domains", f"choices:{quiz}"]
    told = [f"--config={recipe}", f"--workdir={run}", f"--config.eval.suites={asked!r}", "--no_huge_pages"]
    more = ["--config.train.duration=2 steps", "--config.eval.every=1", "--config.model.num_layers=1"]
    assert main(["train", *told, *more]) == 0
    said, metrics = capsys.readouterr().out, open_run(run).metrics
    for word in asked:
        assert metrics[metrics.split == word].step.tolist() == [1, 2]
        assert f"step 2  {word}  " in said
    last = {split: metrics[(metrics.split == split) & (metrics.step == 2)].iloc[0] for split in ("validation", *asked)}
    assert last["domains"]["text/bits_per_byte"] == pytest.approx(last["validation"].bits_per_byte, rel=1e-5)
    assert main(["evaluate", f"--workdir={run}", f"--suite=choices:{quiz}"]) == 0
    said, kept = capsys.readouterr().out, json.loads((run / "evaluations" / "2.suites.json").read_text())
    accuracy = kept[f"choices:{quiz}"]["accuracy"]
    assert accuracy["value"] == last[asked[1]]["accuracy"] and accuracy["count"] == 3
    assert f"  accuracy          {accuracy['value']:.4f} ± " in said and len(accuracy["interval"]) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--suite=domain"], "did you mean 'domains'"),
        (["--suite=choices:nowhere.jsonl"], "nowhere.jsonl cannot be read"),
        (["--suite=domains", "--lm_eval=x"], "two evaluations"),
        (["--suite=domains", "--limit=3"], "--limit is not a flag of --suite"),
        (["--lm_eval=x", "--data=x"], "--data is not a flag of --lm_eval"),
        (["--chat"], "--chat is not a flag of evaluate without --lm_eval"),
    ],
)
def test_what_cannot_be_asked_is_refused(tmp_path, capsys, flags, message):
    assert main(["evaluate", f"--workdir={tmp_path}", *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_bad_row_stops_a_training_before_it_begins(recipe, tmp_path, quiz, capsys):
    quiz.write_text(quiz.read_text() + "{}\n")
    told = [f"--config={recipe}", f"--workdir={tmp_path / 'run'}", "--no_huge_pages"]
    assert main(["train", *told, f"--config.eval.suites=['choices:{quiz}']"]) == 2
    assert "quiz.jsonl:4: no 'question' in this row" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_lm_eval_that_is_not_installed_is_named_with_its_command(monkeypatch):
    from llm_jax.core.table import UserError
    from llm_jax.evals.harness import language_model

    monkeypatch.setitem(__import__("sys").modules, "lm_eval.api.model", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-evals\.txt"):
        language_model()
