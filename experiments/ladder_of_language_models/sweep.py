"""Train each rung for an equal budget of CPU seconds, and keep what came of it in WORKDIRS/NAME/rung.json."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.ladder_of_language_models.recipe import KINDS, MODELS, NONE, OTHERS, PSEUDO
from llm_jax.data.build import build
from llm_jax.evals import diversity, pseudo
from llm_jax.evals.perplexity import Estimate
from llm_jax.objectives.masked import mask_of
from llm_jax.run import evaluate
from llm_jax.run.judge.kinds import likelihoods
from llm_jax.run.open_run import OpenRun, open_run

RECIPE = Path(__file__).with_name("recipe.py")
RUNGS = ("uniform", "unigram", "ngram", "hmm", "lstm", "gru", *MODELS, "vae", "bert", "roberta", "modernbert", "gan")
SHORT, LONG = 32, 192  # steps of two runs whose difference is what steps cost
APART = 8.0  # CPU seconds by which they differ at least: compiling differs by some of them from run to run
HIDDEN = 8  # batches whose every token an encoder is asked for


def climbed(name: str, seconds: float, workdirs: Path) -> dict[str, Any]:
    """Return the row of a rung, trained for about `seconds` of CPU time in steps, or read from an earlier sweep.

    What counts is one pass over the text, whatever it takes.
    """
    found = workdirs / name / "rung.json"
    if found.exists():
        return json.loads(found.read_text())
    steps = None
    if "duration" not in OTHERS.get(name, {}).get("train", {}):
        steps = max(LONG, round(seconds / pace(name, workdirs)))
    spent = cpu(name, steps, workdirs / name)
    kind = KINDS.get(name, "a likelihood")
    run = open_run(workdirs / name)
    found_bits = judged(run, kind, workdirs)
    row = {
        "name": name, "kind": kind, "bits_per_byte": found_bits.value, "error": found_bits.error,
        "cpu_seconds": spent, **measured(run),
    }  # fmt: skip
    found.write_text(json.dumps(row, indent=1) + "\n")
    return row


def pace(name: str, workdirs: Path) -> float:
    """Return the CPU seconds of a step, from a short run and one that is as long as it takes to tell them apart."""
    steps, short = LONG, cpu(name, SHORT, workdirs / f"{name}.{SHORT}")
    while (more := cpu(name, steps, workdirs / f"{name}.{steps}") - short) < APART:
        steps *= 4
    return more / (steps - SHORT)


def cpu(name: str, steps: int | None, workdir: Path) -> float:
    """Train a rung anew and return the CPU seconds of the whole process, its compiling and judging included."""
    shutil.rmtree(workdir, ignore_errors=True)
    log = workdir.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "llm_jax", "train", f"--config={RECIPE}:{name}", f"--workdir={workdir}"]
    command += [] if steps is None else [f"--config.train.duration={steps} steps"]
    with log.open("w") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{name} failed; its log is {log}")
    return used.ru_utime + used.ru_stime


def judged(run: OpenRun, kind: str, workdirs: Path) -> Estimate:
    """Return bits per held-out byte: a likelihood or a bound as the run found it at its end, else as `kind` says."""
    if kind == PSEUDO:
        data = run.resolved.values["data"]
        kept = {key: data[key] for key in ("source", "seq_len", "batch_size")}
        loader = build(tokenizer=run.tokenizer, **kept).validation
        judge = likelihoods(pseudo.evaluator(run.model, mask_of(run.tokenizer)))
        return evaluate.held_out(judge, run.params(), loader, data["batch_size"], HIDDEN)["bits_per_byte"]
    if kind == NONE:
        counts = open_run(workdirs / "ngram")
        width = run.resolved.values["sample"]["tokens"]
        rows = [counts.tokenizer.encode(text)[:width] for text in texts(run)]
        full = np.array([row for row in rows if len(row) == width])
        return diversity.counted(counts.model, counts.params(), full, counts.tokenizer.token_bytes)
    metrics = run.metrics
    last = metrics[metrics.split == "validation"].iloc[-1]
    return Estimate(float(last.bits_per_byte), math.nan, float(last.bits_per_byte_error))


def measured(run: OpenRun) -> Mapping[str, Any]:
    """Return the size of a finished run, what it has read, how fast, and the first of its texts."""
    data, paces = run.resolved.values["data"], run.metrics.get("tokens_per_second")
    return {
        "parameters": sum(math.prod(d.shape) for d in run.model.declarations().values()),
        "tokens": run.steps[-1] * data["batch_size"] * data["seq_len"],
        "tokens_per_second": None if paces is None else float(paces.median()),
        "sample": next(iter(texts(run)), ""),
    }


def texts(run: OpenRun) -> list[str]:
    """Return the last texts that a run has written."""
    files = sorted(run.workdir.samples.glob("*.txt"), key=lambda path: int(path.stem))
    return [text.strip() for text in files[-1].read_text().split("\n\n---\n\n")] if files else []
