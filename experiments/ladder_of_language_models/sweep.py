"""Train each rung for an equal budget of CPU seconds, and keep what came of it in WORKDIRS/NAME/rung.json."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECIPE = Path(__file__).with_name("recipe.py")
SHORT, LONG = 24, 72  # steps of two runs whose difference is what steps cost


def climbed(name: str, seconds: float, workdirs: Path) -> dict[str, Any]:
    """Return the row of a rung, trained for about `seconds` of CPU time in steps, or read from an earlier sweep."""
    found = workdirs / name / "rung.json"
    if found.exists():
        return json.loads(found.read_text())
    cost = (cpu(name, LONG, workdirs / f"{name}.{LONG}") - cpu(name, SHORT, workdirs / f"{name}.{SHORT}")) / (
        LONG - SHORT
    )
    steps = max(1, round(seconds / cost))
    began = time.perf_counter()
    spent = cpu(name, steps, workdirs / name)
    row = {"name": name, "steps": steps, "cpu_seconds": spent, "seconds": time.perf_counter() - began}
    row |= measured(workdirs / name)
    found.write_text(json.dumps(row, indent=1) + "\n")
    return row


def cpu(name: str, steps: int, workdir: Path) -> float:
    """Train a rung for `steps` and return the CPU seconds of the whole process, its compiling and judging included."""
    log = workdir.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "llm_jax", "train", f"--config={RECIPE}:{name}", f"--workdir={workdir}"]
    with log.open("w") as out:
        child = subprocess.Popen(
            [*command, f"--config.train.duration={steps} steps"], stdout=out, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{name} failed; its log is {log}")
    return used.ru_utime + used.ru_stime


def measured(workdir: Path) -> Mapping[str, Any]:
    """Return what the report says of a finished run: held-out bits per byte, its standard error, size, speed, text."""
    from llm_jax.run.open_run import open_run

    run = open_run(workdir)
    metrics = run.metrics
    judged = metrics[metrics.split == "validation"].iloc[-1]
    pace = metrics[metrics.split == "train"].get("tokens_per_second")
    data = run.resolved.values["data"]
    return {
        "bits_per_byte": float(judged.bits_per_byte),
        "error": float(judged.bits_per_byte_error),
        "parameters": sum(_size(d.shape) for d in run.model.declarations().values()),
        "tokens": run.steps[-1] * data["batch_size"] * data["seq_len"],
        "tokens_per_second": None if pace is None else float(pace.median()),
        "sample": _sample(workdir),
    }


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


def _sample(workdir: Path) -> str:
    texts = sorted((workdir / "samples").glob("*.txt"), key=lambda path: int(path.stem))
    return texts[-1].read_text() if texts else ""
