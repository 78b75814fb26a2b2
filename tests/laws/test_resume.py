"""A run that is stopped and goes on ends with the same bits as one that is not: real signals to real processes.

The rest, what a workdir refuses and what it lets pass, runs in this process on copies of one finished run.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from llm_jax import open_run
from llm_jax.cli import main
from llm_jax.core import tree
from llm_jax.run import evaluate as evaluation
from llm_jax.store.checkpoint import Checkpoints
from llm_jax.store.manifest import read as read_manifest

CLOCKS = ("time", "tokens_per_second", "mfu")  # the columns that tell of the machine
OPTIONS = ("--config.train.ema=0.9", "--config.model.dropout=0.1", "--config.train.microbatches=2")
UNEVEN = ("--config.log.every=7", "--config.checkpoint.every=5")  # a row of the log spans a checkpoint
ALL_LAWS = bool(os.environ.get("LLM_JAX_ALL_LAWS"))
KILLS = 20 if ALL_LAWS else 1
STOPS = ((signal.SIGTERM, "^step 7/"), (signal.SIGINT, "^step 21/"))[: 2 if ALL_LAWS else 1]


class Process:
    """A training process on one device, its output read line by line."""

    def __init__(self, recipe, workdir, *options):
        command = [sys.executable, "-m", "llm_jax", "train", f"--config={recipe}", f"--workdir={workdir}"]
        flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"])
        environment = {
            **os.environ,
            "XLA_FLAGS": flags,
            "LLM_JAX_CACHE": str(recipe.parent / "cache"),
            "JAX_COMPILATION_CACHE_DIR": str(recipe.parent / "compiled"),  # only the first process compiles
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        self.lines = []
        self.process = subprocess.Popen(
            [*command, *OPTIONS, *UNEVEN, "--no_huge_pages", *options],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def wait_for(self, pattern):
        for line in self.process.stdout:
            self.lines.append(line)
            if re.search(pattern, line):
                return
        pytest.fail(f"no line with {pattern!r} in {self.lines}: {self.process.stderr.read()}")

    def end(self, number=None):
        """Send a signal, if one is given; return (exit code, standard output, standard error)."""
        if number is not None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=300)
        return self.process.returncode, "".join(self.lines) + out, err


def rows(workdir):
    """The rows of metrics.jsonl without what depends on the machine."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in CLOCKS} for line in lines]


def state(workdir, step=None):
    """{path: numpy array} of a whole saved state: parameters, optimizer, key, averages."""
    leaves = tree.flatten(Checkpoints(workdir / "checkpoints").restore(None, step)[0])
    return {
        p: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for p, x in leaves.items()
    }


def same_bits(first, second):
    assert first.keys() == second.keys()
    for path, values in first.items():
        assert np.asarray(values).tobytes() == np.asarray(second[path]).tobytes(), path


@pytest.fixture(scope="module")
def folder(tmp_path_factory, recipe_in):
    where = tmp_path_factory.mktemp("resume")
    recipe_in(where)
    return where


@pytest.fixture(scope="module")
def uninterrupted(folder):
    code, out, err = Process(folder / "recipe.py", folder / "whole").end()
    assert code == 0, err
    assert "finished at step 40" in out
    return folder / "whole"


def test_a_run_killed_at_random_moments_ends_with_the_bits_of_one_that_was_not(uninterrupted, folder):
    draw = random.Random(os.environ.get("LLM_JAX_SEED", 0))
    workdir, killed = folder / "killed", 0
    for _ in range(KILLS):
        run = Process(folder / "recipe.py", workdir)
        run.wait_for(rf"^step ({draw.choice(['7', '14', '21', '28'])}|35|40)/|finished")
        time.sleep(draw.uniform(0, 0.05))
        code = run.end(signal.SIGKILL)[0]
        assert code in (-signal.SIGKILL, 0)
        killed += code != 0
        if code == 0:  # it was quicker
            break
    code, _, err = Process(folder / "recipe.py", workdir).end()
    assert code == 0, err
    assert killed > 0
    same_bits(state(workdir), state(uninterrupted))
    same_bits(tree.flatten(open_run(workdir).params()), tree.flatten(open_run(uninterrupted).params()))
    assert rows(workdir) == rows(uninterrupted)
    assert not list((workdir / "checkpoints").glob("*.tmp"))


def test_a_run_that_is_asked_to_stop_saves_that_step_and_goes_on_with_the_same_bits(uninterrupted, folder):
    workdir = folder / "stopped"
    for number, line in STOPS:
        run = Process(folder / "recipe.py", workdir)
        run.wait_for(line)
        code, out, err = run.end(number)
        assert code == 75, err
        step = int(re.search(r"stopped at step (\d+), everything is saved; run the same command again", out)[1])
        assert Checkpoints(workdir / "checkpoints").latest() == step < 40
        assert number.name in err and "Traceback" not in err
    code, out, err = Process(folder / "recipe.py", workdir).end()
    assert code == 0, err
    assert "going on with" in out
    same_bits(state(workdir), state(uninterrupted))
    assert rows(workdir) == rows(uninterrupted)


def test_a_second_signal_ends_at_once_and_the_last_checkpoint_stands(folder):
    run = Process(folder / "recipe.py", folder / "hurried", "--config.train.duration=100000 steps")
    run.wait_for("^step 14/")
    os.kill(run.process.pid, signal.SIGSTOP)  # so that both signals are there before it can leave
    os.kill(run.process.pid, signal.SIGTERM)
    os.kill(run.process.pid, signal.SIGINT)
    os.kill(run.process.pid, signal.SIGCONT)
    code, _, err = run.end()
    assert code == 130 and "the last checkpoint stands" in err and "Traceback" not in err
    assert state(folder / "hurried")


ALL = jax.devices()


@pytest.fixture(scope="module")
def one_device():
    """Let this process see one device, which compiles quickly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: ALL[:1])
        yield


@pytest.fixture(scope="module")
def finished(one_device, tmp_path_factory, recipe_in):
    """A finished run of this process; tests work on copies of it."""
    where = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_JAX_CACHE", str(where / "cache"))
        recipe_in(where)
        assert main(["train", f"--config={where / 'recipe.py'}", f"--workdir={where / 'run'}", *SHORT]) == 0
        yield where


SHORT = ("--config.train.duration=10 steps", "--config.checkpoint.every=5", "--config.log.every=5")


@pytest.fixture
def again(finished, tmp_path, capsys):
    """Run the finished run again, in a copy, with changes; return (exit code, output, errors, its workdir)."""
    shutil.copytree(finished / "run", tmp_path / "run")

    def run(*options, drop=None, duration="10 steps"):
        if drop is not None:
            shutil.rmtree(tmp_path / "run" / "checkpoints" / str(drop))
        capsys.readouterr()
        command = ["train", f"--config={finished / 'recipe.py'}", f"--workdir={tmp_path / 'run'}", *SHORT[1:]]
        code = main([*command, f"--config.train.duration={duration}", *options])
        return code, *capsys.readouterr(), tmp_path / "run"

    return run


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "events.jsonl"}


def test_a_finished_run_that_is_run_again_says_so_and_changes_nothing(again, tmp_path):
    before = contents(tmp_path / "run")
    code, out, _, workdir = again()
    assert code == 0 and "already finished" in out
    assert contents(workdir) == before


def test_a_workdir_that_was_moved_goes_on_with_the_same_bits(again, finished):
    code, out, _, workdir = again(drop=10)
    assert code == 0 and "going on with" in out
    same_bits(state(workdir), state(finished / "run"))
    assert rows(workdir) == rows(finished / "run")


class Killed(BaseException):
    """What ends a process in the midst."""


def test_a_run_killed_while_its_end_is_judged_has_lost_nothing_but_that(again, finished, monkeypatch, tmp_path):
    """Killed before anything is found, then with a row written, then not."""
    held_out, beside = evaluation.held_out, evaluation.beside

    def dying(judge, params, loader, rows, limit=None, *more):
        if limit is None:
            raise Killed
        return held_out(judge, params, loader, rows, limit, *more)

    def dying_later(run, workdir, step, params, limit, *more):
        if limit is None:
            raise Killed
        beside(run, workdir, step, params, limit, *more)

    for name, kill, drop in (("held_out", dying, 10), ("beside", dying_later, None)):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(evaluation, name, kill)
            again("--config.sample.prompts=['the']", drop=drop)
        assert Checkpoints(tmp_path / "run" / "checkpoints").latest() == 10
    code, out, err, workdir = again("--config.sample.prompts=['the']")
    assert code == 0, err
    assert "finished at step 10: loss" in out and (workdir / "samples" / "10.txt").exists()
    same_bits(state(workdir), state(finished / "run"))
    assert rows(workdir) == rows(finished / "run")
    heads = [read_manifest(where / "checkpoints" / "10") for where in (workdir, finished / "run")]
    assert heads[0].metrics == heads[1].metrics and heads[0].metrics["loss"] == rows(workdir)[-1]["loss"]
    assert "already finished" in again()[1]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("optimizer.learning_rate=0.5", "optimizer.learning_rate: 0.003 -> 0.5"),
        ("optimizer.name=lion", "optimizer.name: 'adamw' -> 'lion'"),
        ("model.num_layers=3", "model.num_layers: 2 -> 3"),
        ("seed=1", "seed: 0 -> 1"),
        ("data.batch_size=16", "data.batch_size: 8 -> 16"),
        ("mesh.compute_dtype=bfloat16", "mesh.compute_dtype: 'float32' -> 'bfloat16'"),
        ("train.duration=5 steps", "train.duration: '10 steps' -> '5 steps'"),
    ],
)
def test_a_changed_configuration_is_refused_with_the_differences(override, line, again, tmp_path):
    before = contents(tmp_path / "run")
    key, _, value = override.partition("=")
    code, out, err, workdir = again(duration=value) if key == "train.duration" else again(f"--config.{override}")
    assert code == 2 and out == ""
    assert f"\n  {line}\n" in err and "--allow_config_change" in err and "Traceback" not in err
    assert contents(workdir) == before


def test_a_changed_rate_is_accepted_when_it_is_allowed(again):
    code, out, _, workdir = again("--config.optimizer.learning_rate=0.5", "--allow_config_change", drop=10)
    assert code == 0 and "going on with" in out
    assert open_run(workdir).config.optimizer.learning_rate == 0.5


def test_another_model_is_refused_with_the_first_differences_even_when_changes_are_allowed(again):
    code, _, err, _ = again("--config.model.mlp_dim=48", "--allow_config_change", drop=10)
    assert code == 2 and "of another model" in err and "Traceback" not in err
    assert "blocks/mlp/" in err and "(2, 32, 48) is wanted, (2, 32, 64) was saved" in err


def test_what_does_not_change_the_result_passes_without_a_word(again, finished):
    changes = ["eval.batches=1", "eval.every=4", "checkpoint.keep_last=5", "log.tensorboard=True", "sample.tokens=3"]
    code, out, err, workdir = again(*(f"--config.{change}" for change in changes), drop=10)
    assert code == 0, err
    assert "going on with" in out and (workdir / "tensorboard").exists()
    same_bits(state(workdir), state(finished / "run"))


def test_a_run_goes_on_with_another_mesh(again, finished, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda *_: ALL[:4])
    code, _, err, workdir = again("--config.mesh.tensor=2", "--config.mesh.fsdp=2", drop=10)
    assert code == 0, err
    others = state(finished / "run")
    for path, values in state(workdir).items():
        np.testing.assert_allclose(values, others[path], atol=1e-4, err_msg=path)


def test_a_longer_duration_passes_where_the_schedule_does_not_depend_on_it(again):
    code, _, err, workdir = again(duration="15 steps")
    assert code == 0, err
    assert open_run(workdir).steps[-1] == 15 and rows(workdir)[-1]["step"] == 15


@pytest.mark.exhaustive
def test_a_longer_duration_is_refused_where_the_schedule_ends_with_it(finished, tmp_path, capsys):
    common = [
        f"--config={finished / 'recipe.py'}",
        f"--workdir={tmp_path / 'run'}",
        "--config.optimizer.schedule.name=cosine",
    ]
    assert main(["train", *common, "--config.train.duration=2 steps"]) == 0
    assert main(["train", *common, "--config.train.duration=4 steps"]) == 2
    assert "train.duration: '2 steps' -> '4 steps'" in capsys.readouterr().err


def test_changed_data_are_refused(again, finished):
    text = finished / "text.txt"
    before = text.read_text()
    try:
        text.write_text(before + "\none line more")
        code, _, err, _ = again(drop=10)
    finally:
        text.write_text(before)
    assert code == 2 and "the data have changed" in err


def test_the_tokenizer_comes_from_the_workdir(finished, tmp_path, capsys, monkeypatch):
    """Trained anew it could differ, with another library say."""
    monkeypatch.setenv("LLM_JAX_CACHE", str(finished / "cache"))
    common = ["train", f"--config={finished / 'recipe.py'}", f"--workdir={tmp_path / 'run'}"]
    common += ['--config.data.tokenizer={"name": "bpe", "vocab_size": 300}', "--config.train.duration=2 steps"]
    assert main(common) == 0
    shutil.rmtree(finished / "cache" / "tokenizers")
    assert main(common) == 0
    assert not (finished / "cache" / "tokenizers").exists()
    (tmp_path / "run" / "tokenizer" / "tokenizer.json").write_text("{}")
    capsys.readouterr()
    assert main(common) == 2
    assert "tokenizer" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(again, finished, tmp_path):
    newest = tmp_path / "run" / "checkpoints" / "10"
    largest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(bytes(b ^ 1 for b in largest.read_bytes()))
    code, out, err, workdir = again()
    assert code == 0, err
    assert "going on with" in out and (workdir / "checkpoints" / "corrupt").exists()
    same_bits(state(workdir), state(finished / "run"))


def test_when_all_checkpoints_are_damaged_nothing_starts_over(again, tmp_path):
    for manifest in (tmp_path / "run" / "checkpoints").glob("*/manifest.json"):
        manifest.write_text("{}")
    before = contents(tmp_path / "run")
    code, _, err, workdir = again()
    assert code == 2 and "Traceback" not in err and "whole" in err
    assert contents(workdir) == before


def test_evaluate_and_sample_of_a_finished_run(finished, capsys):
    workdir = finished / "run"
    assert main(["evaluate", f"--workdir={workdir}"]) == 0
    told = capsys.readouterr().out
    last = [row for row in rows(workdir) if row["split"] == "validation"][-1]
    assert f"{last['loss']:.4f}" in told and f"{last['bits_per_byte']:.4f}" in told and "step 10" in told
    sample = ["sample", f"--workdir={workdir}", "--prompt=the people", "--tokens=8", "--seed=3"]
    assert main(sample) == main(sample) == 0
    first = capsys.readouterr().out
    assert first.startswith("the people") and first == first[: len(first) // 2] * 2
    assert main([*sample, "--step=7"]) == main(["evaluate", f"--workdir={workdir}", "--step=-1"]) == 2
    assert "steps there: [5, 10]" in capsys.readouterr().err


def test_a_run_whose_loss_is_not_finite_stops_before_it_saves(finished, tmp_path, capsys):
    command = ["train", f"--config={finished / 'recipe.py'}", f"--workdir={tmp_path / 'run'}", "--config.log.every=100"]
    assert main([*command, "--config.optimizer.learning_rate=1e38", "--config.optimizer.weight_decay=10"]) == 2
    err = capsys.readouterr().err
    assert "optimizer.learning_rate=1e+38" in err and "Traceback" not in err
    found = Checkpoints(tmp_path / "run" / "checkpoints")
    for step in found.steps():
        for path, values in state(tmp_path / "run", step).items():
            assert np.isfinite(np.asarray(values, np.float64)).all(), (step, path)
