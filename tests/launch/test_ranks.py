"""Two real processes on this machine: they train as one does, and what befalls one of them befalls the run."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llm_jax.core import tree
from llm_jax.store.checkpoint import Checkpoints

ROOT = Path(__file__).parents[2]
ENV = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
ENV |= {"PYTHONPATH": str(ROOT), "XLA_FLAGS": "--xla_backend_optimization_level=0"}
SMALL = ["--config.model.embed_dim=32", "--config.model.num_layers=1", "--config.log.tensorboard=False",
         "--config.log.every=4", "--config.eval.batches=1", "--config.checkpoint.every=4",
         "--no_huge_pages"]  # fmt: skip


def started(workdir, duration, *words, verb=("launch", "--on=local")):
    """Start the recipe `debug` in a workdir."""
    command = [sys.executable, "-m", "llm_jax", *verb, "--config=configs/debug.py", f"--workdir={workdir}",
               f"--config.train.duration={duration}", *SMALL, *words]  # fmt: skip
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=ENV, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def ended(run, before=""):
    """Wait for a run's end; return its code and all that it said."""
    with run:
        return (run.wait(60), before + said) if (said := run.stdout.read()) is not None else None


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {(row["split"], row["step"]): row["loss"] for row in rows}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def alone(folder):
    """One process's run of 8 steps."""
    code, said = ended(started(folder / "alone", "8 steps", verb=("train",)))
    assert code == 0, said
    return folder / "alone"


def same_run(one, two):
    """What was measured is the same, and so are the parameters."""
    assert losses(one).keys() == losses(two).keys() and len(losses(one)) == 3
    assert max(abs(loss - losses(two)[key]) for key, loss in losses(one).items()) < 1e-5
    first, second = (tree.flatten(Checkpoints(w / "checkpoints").restore(part="params")[0]) for w in (one, two))
    assert all(np.allclose(first[path], second[path], atol=1e-3) for path in first)


def test_two_ranks_train_and_save_what_one_process_does(alone, folder):
    code, said = ended(started(folder / "two", "8 steps", "--ranks=2"))
    assert code == 0, said
    assert said.count("finished at step 8") == 1  # the first rank alone speaks
    same_run(alone, folder / "two")


@pytest.mark.faults
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_costs_only_the_way_back_to_the_last_checkpoint(victim, alone, folder):
    workdir = folder / f"killed-{victim}"
    run, said = started(workdir, "8 steps", "--ranks=2", "--restarts=1"), ""
    for line in run.stdout:
        said += line
        if line.startswith("step 4/"):
            (process,) = [rank for rank in children(run.pid) if f"JAX_PROCESS_ID={victim}" in rank[1]]
            os.kill(process[0], signal.SIGKILL)
            break
    code, said = ended(run, said)
    assert code == 0, said
    assert f"rank {victim} was ended by signal 9" in said and "all start again from the last checkpoint" in said
    same_run(alone, workdir)


def children(parent):
    """(process, its environment) of each child."""
    listed = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True).stdout.split()
    return [(int(pid), Path(f"/proc/{pid}/environ").read_text().split("\0")) for pid in listed]


@pytest.mark.faults
def test_a_run_goes_on_with_other_numbers_of_ranks_as_one_process_would(folder):
    """Parameters and optimizer are split over all ranks, so that each number reads what another split elsewhere."""
    split = ("--config.mesh.data=1", "--config.mesh.fsdp=-1")
    for ranks, steps in ((4, 4), (2, 8), (4, 12)):
        code, said = ended(started(folder / "regrouped", f"{steps} steps", f"--ranks={ranks}", *split))
        assert code == 0, said
        assert f"finished at step {steps}" in said and ("going on with" in said) == (steps > 4), said
    code, said = ended(started(folder / "ungrouped", "12 steps", verb=("train",)))
    assert code == 0, said
    found, expected = losses(folder / "regrouped"), losses(folder / "ungrouped")
    assert found.keys() >= {("train", 12)} and all(abs(found[key] - expected[key]) < 1e-5 for key in expected)


@pytest.mark.faults
def test_two_ranks_learn_by_rewards_from_the_texts_that_one_process_writes(folder):
    asked = [{"question": f"{a}{b}", "answer": "x" * (1 + (a + b) % 2)} for a in range(6) for b in range(6)]
    (folder / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    options = {"train": str(folder / "my.jsonl"), "held_out": 0.2}
    questions = ("--config.data.source=files", f"--config.data.options={options}", "--config.data.seq_len=16",
                 '--config.data.form={"name": "prompts"}')  # fmt: skip
    code, said = ended(started(folder / "start", "4 steps", *questions, verb=("train",)))
    assert code == 0, said
    objective = {"name": "grpo", "group": 4, "tokens": 4, "updates": 2, "beta": 0.1, "answer": "x"}
    rewarded = (*questions, f"--config.init_from={folder / 'start'}", "--config.eval.suites=['reward']",
                *(f"--config.objective.{name}={value}" for name, value in objective.items()))  # fmt: skip
    told = {}
    for name, words in (("one", {"verb": ("train",)}), ("both", {})):
        ranks = () if words else ("--ranks=2",)
        code, said = ended(started(folder / name, "4 steps", *rewarded, *ranks, **words))
        assert code == 0, said
        lines = (folder / name / "metrics.jsonl").read_text().splitlines()
        told[name] = {(row["split"], row["step"]): row for row in map(json.loads, lines)}
    assert told["one"].keys() == told["both"].keys() >= {("train", 4), ("reward", 4)}
    for key, row in told["one"].items():
        for kind in {"loss", "reward", "kl", "length", "silent"} & row.keys():
            assert abs(row[kind] - told["both"][key][kind]) < 1e-5, (key, kind)


@pytest.mark.faults
def test_a_signal_to_the_launcher_saves_one_step_and_one_process_goes_on_from_it(folder):
    run, said = started(folder / "stopped", "100000 steps", "--ranks=2"), ""
    for line in run.stdout:
        said += line
        if line.startswith("step 4/"):
            second = started(folder / "stopped", "100000 steps", "--ranks=2")
            run.send_signal(signal.SIGTERM)
            break
    code, words = ended(second)
    assert code == 2 and "it runs already" in words
    code, said = ended(run, said)
    assert code == 75, said
    step = int(re.search(r"stopped at step (\d+), everything is saved", said)[1])
    assert Checkpoints(folder / "stopped" / "checkpoints").latest() == step
    again, said = started(folder / "stopped", "100000 steps"), ""
    for line in again.stdout:
        said += line
        if line.startswith("step "):
            again.send_signal(signal.SIGTERM)
            break
    code, said = ended(again, said)
    assert code == 75 and "going on with llama" in said
    assert int(re.search(r"^step (\d+)/", said, re.M)[1]) > step
