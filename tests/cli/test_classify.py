"""From texts with labels to a model that answers typed ones: a report at each epoch, then classify."""

import csv
import io
import json
import random

import numpy as np
import pytest

from llm_jax import open_run
from llm_jax.adapt.headed import HEAD
from llm_jax.cli import main
from llm_jax.core import tree
from llm_jax.models.classical.hmm import Hmm
from llm_jax.run.evaluate import due

RECIPE = '''"""Texts with labels."""

from ml_collections import ConfigDict


def get_config(arg="causal"):
    text = {{"source": "text", "options": {{"files": {folder!r} + "/text.txt", "separator": "\\n"}}}}
    rows = {{
        "source": "csv", "options": {{"train": {folder!r} + "/train.csv", "validation": {folder!r} + "/test.csv"}},
        "form": {{"name": "labelled", "classes": ["bad", "good"], "long": "cut"}},
    }}
    return ConfigDict({{
        "model": {{"name": "lstm", "num_layers": 1, "embed_dim": 16}},
        "objective": {{"name": arg}},
        "optimizer": {{"name": "adamw", "learning_rate": 1e-2}},
        "data": {{
            **(text if arg == "causal" else rows), "tokenizer": {{"name": "bytes"}}, "batch_size": 8, "seq_len": 16,
        }},
        "train": {{"duration": "1 steps" if arg == "causal" else "4 epochs"}},
        "eval": {{"epochs": 0 if arg == "causal" else 2, "batches": None}},
        "log": {{"every": 4, "tensorboard": False}},
    }})
'''


def write(folder):
    """Write the recipe and what it reads; a text is good where it has more a than b."""
    draw = random.Random(0)
    (folder / "recipe.py").write_text(RECIPE.format(folder=str(folder)))
    (folder / "text.txt").write_text("\n".join("abc" * 20 for _ in range(40)))
    for name, size in (("train", 60), ("test", 19)):
        with open(folder / f"{name}.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["text", "label", "start"])
            for _ in range(size):
                text = "".join(draw.choices(draw.choice(["aaab", "abbb"]), k=9))
                rows.writerow([text, "good" if text.count("a") > 4 else "bad", text[0]])
    return folder / "recipe.py"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(folder, what the classifier's training said): a run `base` of a language model, and `tuned` from it."""
    folder = tmp_path_factory.mktemp("classify")
    recipe = write(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_JAX_CACHE", str(folder / "cache"))
        assert main(["train", f"--config={recipe}", f"--workdir={folder / 'base'}"]) == 0
        more = f"--config.init_from={folder / 'base'}"
        said = io.StringIO()
        patch.setattr("sys.stdout", said)
        assert main(["train", f"--config={recipe}:classification", f"--workdir={folder / 'tuned'}", more]) == 0
        yield folder, said.getvalue()


def test_each_evaluation_has_its_line_and_its_table_and_they_are_in_the_metrics(runs):
    folder, said = runs
    assert (
        said.rstrip().endswith('--text="…"') and said.count("macro mean") == 3
    )  # of what it begins from, of the second epoch, and of the last
    assert "epoch 2, step 15  held-out loss" in said and "nats/text  accuracy" in said
    assert "step 30/30  loss 0." in said and "  accuracy " in said.split("step 30/30")[1].splitlines()[0]
    table = said[said.rindex("precision  recall") :].splitlines()
    assert [line.split()[0] for line in table[1:4]] == ["bad", "good", "macro"]
    rows = [json.loads(line) for line in (folder / "tuned/metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["split"] == "validation"][-1]
    assert last["accuracy"] > 0.8 and last["weight"] == 19 and last["loss_error"] > 0
    pairs = {
        (right, said): last.get(f"confusion/{right}/{said}", 0) for right in ("bad", "good") for said in ("bad", "good")
    }
    assert sum(pairs.values()) == 19
    assert last["precision/good"] == pairs["good", "good"] / (pairs["good", "good"] + pairs["bad", "good"])
    assert last["f1"] == pytest.approx((last["f1/good"] + last["f1/bad"]) / 2)
    assert {"loss", "accuracy"} <= next(row for row in rows if row["split"] == "train").keys()


@pytest.mark.exhaustive
def test_the_worked_example_of_ten_epochs_and_a_typed_text(runs, tmp_path, capsys):
    """Loss and accuracy after each of ten epochs, then the class of what is typed; the article's accuracy: 0.7937."""
    folder, _ = runs
    more = ["--config.train.duration=10 epochs", "--config.eval.epochs=1"]
    recipe = f"--config={folder / 'recipe.py'}:classification"
    assert main(["train", recipe, f"--workdir={tmp_path / 'run'}", *more]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [int(float(line.split(",")[0].split()[1])) for line in lines] == list(
        range(1, 11)
    )  # at the step that ends it
    told = [[float(line.partition(f"{word} ")[2].split()[0]) for line in lines] for word in ("loss", "accuracy")]
    assert told[0][-1] < told[0][0] and told[1][-1] > 0.7937
    for text, label in (("aaabaaaab", "good"), ("bbabbbbba", "bad")):
        assert main(["classify", f"--workdir={tmp_path / 'run'}", f"--text={text}"]) == 0
        assert capsys.readouterr().out.split()[0] == label


def test_evaluations_come_where_epochs_end(runs, monkeypatch):
    class Run:
        class sections:  # noqa: N801
            class eval:  # noqa: N801
                every, epochs = 0, 2

            class data:  # noqa: N801
                batch_size = 8

        class data:  # noqa: N801
            class train:  # noqa: N801
                examples_per_epoch = 60

    assert [step for step in range(32) if due(Run, step)] == [0, 15, 30]


def test_it_begins_from_the_language_model_and_its_head_is_new(runs):
    folder, _ = runs
    base, tuned = (open_run(folder / name) for name in ("base", "tuned"))
    assert tuned.model.labels == ("bad", "good")
    assert set(tree.flatten(tuned.params())) - set(tree.flatten(base.params())) == {
        f"{HEAD}/kernel", f"{HEAD}/bias",
    }  # fmt: skip


def test_typed_texts_are_answered_as_they_were_learnt(runs, capsys, monkeypatch):
    folder, _ = runs
    asked = ["classify", f"--workdir={folder / 'tuned'}"]
    assert main([*asked, "--text=aaaaaaba"]) == 0
    label, probability = capsys.readouterr().out.split()
    assert label == "good" and 0.5 < float(probability) <= 1
    monkeypatch.setattr("sys.stdin", io.StringIO("bbbbabbb\n\naaaaaaba\n" + "ab" * 50 + "\n"))
    assert main(asked) == 0
    lines = capsys.readouterr().out.split("\n")
    assert lines[0].split()[0] == "bad" and lines[1] == "" and lines[2].split() == [label, pytest.approx(probability)]
    run = open_run(folder / "tuned")
    tokens = np.array([[*b"aaaaaaba", run.tokenizer.eos_id]])
    scores = np.asarray(run.model.apply(run.params(), {"tokens": tokens}).extras["scores"])[0]
    assert float(probability) == pytest.approx(1 / (1 + np.exp(scores[0] - scores[1])), abs=1e-4)


def test_a_smaller_one_answers_and_is_judged(runs, capsys):
    folder, _ = runs
    small = folder / "small"
    assert main(["compress", f"--workdir={folder / 'tuned'}", f"--to={small}", "--quantize=int8"]) == 0
    said = []
    for workdir in (small, folder / "tuned"):
        capsys.readouterr()
        assert main(["classify", f"--workdir={workdir}", "--text=aaaaaaba"]) == 0
        assert main(["evaluate", f"--workdir={workdir}", "--suite=calibration,fairness:start"]) == 0
        said.append(capsys.readouterr().out.split())
    assert said[0][0] == said[1][0] == "good" and float(said[0][1]) == pytest.approx(float(said[1][1]), abs=0.01)
    assert said[0][2:5] == said[1][2:5] and len(said[0]) == len(said[1])


def test_suites_judge_the_classes_of_held_out_texts(runs, capsys):
    folder, _ = runs
    asked = ["evaluate", f"--workdir={folder / 'tuned'}"]
    assert main([*asked, "--suite=calibration,fairness:start"]) == 0
    found = json.loads((folder / "tuned/evaluations/30.suites.json").read_text())
    run = open_run(folder / "tuned")
    rows = list(csv.DictReader((folder / "test.csv").read_text().splitlines()))
    tokens = np.array([[*row["text"].encode(), run.tokenizer.eos_id] for row in rows])
    scores = np.asarray(run.model.apply(run.params(), {"tokens": tokens}).extras["scores"], np.float64)
    odds = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    said, right = scores.argmax(-1), np.array([row["label"] == "good" for row in rows])
    assert found["calibration"]["confidence"]["value"] == pytest.approx(odds.max(-1).mean(), rel=1e-5)
    assert found["calibration"]["accuracy"]["value"] == pytest.approx((said == right).mean())
    assert 0 < found["calibration"]["ece"]["value"] < 1 and found["calibration"]["ece"]["count"] == 19
    begins = np.array([row["start"] == "a" for row in rows])
    gap = abs((said == right)[begins].mean() - (said == right)[~begins].mean())
    told = {name: e["value"] for name, e in found["fairness:start"].items()}
    assert told["accuracy_gap"] == pytest.approx(gap) == pytest.approx(abs(told["accuracy/a"] - told["accuracy/b"]))
    assert told["demographic_parity"] == pytest.approx(abs(said[begins].mean() - said[~begins].mean()))
    assert told["equal_opportunity"] == pytest.approx(abs(said[begins & right].mean() - said[~begins & right].mean()))
    assert told["equalized_odds"] >= told["equal_opportunity"]
    refused = {
        "": "which groups", ":start=best": "'best' is no class", ":stop": "there are: text, label, start\n",
        ":label": "'bad' has no held-out text of one",
    }  # fmt: skip
    for argument, message in refused.items():
        assert main([*asked, f"--suite=fairness{argument}"]) == 2
        assert message in capsys.readouterr().err


def test_robustness_of_a_classifier_is_its_accuracy_on_texts_that_are_changed(runs, capsys):
    folder, _ = runs
    asked = ["evaluate", f"--workdir={folder / 'tuned'}", "--suite=calibration,robustness:1.0"]
    assert main(asked) == 0
    found = json.loads((folder / "tuned/evaluations/30.suites.json").read_text())
    told = {name: e["value"] for name, e in found["robustness:1.0"].items()}
    assert told["accuracy"] == found["calibration"]["accuracy"]["value"] == told["whitespace/accuracy"]
    run = open_run(folder / "tuned")
    rows = list(csv.DictReader((folder / "test.csv").read_text().splitlines()))
    tokens = np.array([[*row["text"].swapcase().encode(), run.tokenizer.eos_id] for row in rows])
    said = run.model.apply(run.params(), {"tokens": tokens}).extras["scores"].argmax(-1)
    large = np.mean([row["label"] == ("bad", "good")[i] for row, i in zip(rows, said, strict=True)])
    assert told["case/accuracy"] == pytest.approx(large) and told["typos/accuracy"] < told["accuracy"]
    assert told["case/decrease"] == pytest.approx(told["accuracy"] - large)


def test_what_learnt_no_labels_does_not_classify(runs, capsys):
    folder, _ = runs
    assert main(["classify", f"--workdir={folder / 'base'}", "--text=a"]) == 2
    assert "'causal', which has no labels" in capsys.readouterr().err
    assert main(["evaluate", f"--workdir={folder / 'base'}", "--suite=fairness:start"]) == 2
    assert "needs a run of objective.name='classification'" in capsys.readouterr().err
    quiz = folder / "quiz.jsonl"
    quiz.write_text('{"question": "a", "choices": ["a", "b"], "answer": 0}')
    assert main(["evaluate", f"--workdir={folder / 'tuned'}", f"--suite=choices:{quiz}"]) == 2
    assert "this one tells labels" in capsys.readouterr().err
    assert main(["classify", f"--workdir={folder / 'tuned'}", "--text= "]) == 2
    assert "--text is empty" in capsys.readouterr().err
    assert main(["sample", f"--workdir={folder / 'tuned'}", "--prompt=a"]) == 2
    assert "needs a decoder" in capsys.readouterr().err
    assert main(["export", f"--workdir={folder / 'tuned'}", f"--to={folder / 'out'}"]) == 2
    assert "model.name='lstm' has no class in transformers" in capsys.readouterr().err


def test_classes_that_are_not_named_are_asked_for(runs, capsys):
    folder, _ = runs
    where = [f"--config={folder / 'recipe.py'}:classification", f"--workdir={folder / 'no'}"]
    assert main(["train", *where, "--config.data.form={'name': 'labelled'}"]) == 2
    assert "needs the names of the classes" in capsys.readouterr().err
    assert main(["train", *where, "--config.objective.class_weights=[1.0, 2.0, 3.0]"]) == 2
    assert "are 3 numbers, and data.form.classes are 2" in capsys.readouterr().err
    text = ["--config.data.source=text", f"--config.data.options={{'files': '{folder / 'text.txt'}'}}"]
    assert main(["train", *where, "--config.data.form=None", *text]) == 2
    assert "objective.name='classification' reads 'label'" in capsys.readouterr().err
    assert not (folder / "no").exists()


TAGGED = [{"tokens": ["ab", "cd", "ab"], "tags": ["X", "Y", "X"]}, {"tokens": ["cd", "ab"], "tags": ["Y", "X"]}] * 8


@pytest.mark.parametrize(
    ("arguments", "objective", "learner"),
    [
        ({"name": "hmm", "floor": 0.1}, "tagging", "counting"),
        pytest.param({"name": "bert", "num_layers": 1, "embed_dim": 16, "num_heads": 2}, "tagging", "gradient",
                     marks=pytest.mark.exhaustive),
        pytest.param({"name": "lstm", "num_layers": 1, "embed_dim": 16}, "regression", "gradient",
                     marks=pytest.mark.exhaustive),
    ],
)  # fmt: skip
def test_tags_and_numbers(arguments, objective, learner, runs, tmp_path, capsys, monkeypatch):
    folder, _ = runs
    monkeypatch.setenv("LLM_JAX_CACHE", str(tmp_path / "cache"))
    rows = TAGGED if objective == "tagging" else [{"text": "a" * n, "label": n} for n in range(1, 9)] * 2
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    form = {"name": "tagged", "classes": ["X", "Y"]} if objective == "tagging" else {"name": "labelled"}
    where = {"train": str(tmp_path / "rows.jsonl"), "validation": str(tmp_path / "rows.jsonl")}
    given = {
        "model": arguments, "objective": {"name": objective}, "train.learner": learner, "data.form": form,
        "data.source": "jsonl", "data.options": where, "eval.epochs": 0,
        "train.duration": "100 steps" if learner == "gradient" else "1 epochs",
    }  # fmt: skip
    more = [f"--config.{key}={value}" for key, value in given.items()]
    workdir = f"--workdir={tmp_path / 'run'}"
    assert main(["train", f"--config={folder / 'recipe.py'}:classification", workdir, *more]) == 0
    said = capsys.readouterr().out
    assert "macro mean" in said if objective == "tagging" else "spearman" in said
    assert main(["classify", workdir, "--text=" + ("cd ab" if objective == "tagging" else "aaa")]) == 0
    answer = capsys.readouterr().out.strip()
    if objective == "tagging":
        assert answer == "cd/Y ab/X"
        assert isinstance(open_run(tmp_path / "run").model, type(Hmm(8).tagger(("X",)))) == (learner == "counting")
    else:
        assert 1 <= float(answer) <= 8
