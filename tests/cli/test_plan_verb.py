"""`plan` from the command line, with formulas alone."""

import json

import pytest

from llm_jax.cli import main
from llm_jax.planning import aot, report

POD = ["plan", "--config=configs/pods/llama2_7b.py", "--topology=v5e:16x16"]


def test_a_plan_is_printed_and_saved(tmp_path, capsys):
    out = tmp_path / "plans" / "plan.json"
    assert main([*POD, "--analytic", "--price=1.5", f"--out={out}"]) == 0
    printed, saved = capsys.readouterr().out, json.loads(out.read_text())
    for words in ("fits", "binds", "tokens/s", "chip-hours", "save every", "at 1.5 a chip-hour"):
        assert words in printed
    assert saved["chips"] == 256 and saved["fits"] and saved["budget"]["money"] > 0
    assert saved["source"] == "formulas"


def test_a_search_prints_the_flags_of_the_best(capsys):
    assert main([*POD, "--search", "--analytic"]) == 0
    printed = capsys.readouterr().out
    assert "plans fit by formula" in printed and "the best: --config.mesh.slice=1" in printed


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--price=0"], "--price=0 must be above zero"),
        (["--config.mesh.fsdp=3"], "needs 3 device"),
        (["--config.data.batch_size=100"], "over 256 shards of the batch; try 256"),
        (["--config.data.batch_size=900"], "try 1024"),
        (
            ["--config.model.vocab_size=None", "--config.data.tokenizer={'name': 'bpe'}"],
            "give --config.model.vocab_size",
        ),
        (["--slices=0"], "--slices=0"),
        (["--exact"], "--analytic compiles nothing"),
        (["--plot=plan.xyz"], "--plot=plan.xyz does not end in one of .png"),
        (["--out=README.md/plan.json"], "--out=README.md/plan.json: its folder cannot be made"),
        (["--out=tests"], "--out=tests cannot be written"),
    ],
)
def test_what_cannot_be_planned_is_refused_with_the_way_out(more, complaint, capsys):
    assert main([*POD, "--analytic", *more]) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "complaint"),
    [
        ("ngram_sotu", "train.learner=counting: plans are of gradient descent alone"),
        ("bert_sotu", "objective.name=masked: plans are of batches of packed text alone"),
    ],
)
def test_a_step_that_is_no_descent_over_packed_text_is_refused(recipe, complaint, capsys):
    assert main(["plan", f"--config=configs/{recipe}.py", "--topology=v5e:1x1", "--analytic"]) == 2
    assert complaint in capsys.readouterr().err


def test_a_model_that_fits_nowhere_is_refused_by_the_search(capsys):
    assert main(["plan", "--config=configs/pods/llama3_70b.py", "--topology=v5e:2x2", "--search", "--analytic",
                 "--config.data.batch_size=4"]) == 2  # fmt: skip
    assert "no plan of this model fits v5e:2x2" in capsys.readouterr().err


def test_without_a_compiler_the_way_to_one_is_named(monkeypatch, capsys):
    monkeypatch.setattr(aot.importlib.util, "find_spec", lambda name: None)
    assert main(POD) == 2
    assert "requirements-plan.txt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("chip", "reason"),
    [("h100", r"no compiler for h100 is installed (make gpu_compiler)"), ("a100", "for a100 there is no compiler")],
)
def test_without_a_compiler_of_gpus_formulas_answer_alone_and_say_so(chip, reason, monkeypatch, capsys):
    monkeypatch.setattr(aot, "gpu_compiler", lambda: None)
    assert main(["plan", "--config=configs/pods/llama2_7b.py", f"--topology={chip}:32x8"]) == 0
    assert f"(formulas alone: {reason}" in capsys.readouterr().out


def test_a_compiler_that_does_not_end_is_left(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("LLM_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(aot, "check_compiler", lambda topology: None)
    assert main([*POD, "--timeout=0.01"]) == 2
    assert "did not end within 0.01 s; give --analytic, or a longer --timeout" in capsys.readouterr().err


def test_a_picture_that_cannot_be_drawn_is_refused_before_anything_is_compiled(monkeypatch, capsys):
    monkeypatch.setattr(report.importlib.util, "find_spec", lambda name: None)
    assert main([*POD, "--plot=plan.png"]) == 2
    assert "matplotlib" in capsys.readouterr().err
