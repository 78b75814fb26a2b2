"""Training speed: this library, the bare program and transformers on the same model and tokens, in interleaved rounds.

    python -m benchmarks.training --cells=S,M,G --rounds=9 --out=benchmarks/RESULTS.md [--torch_python=python]

The programs start once, one after the other, and then take turns: in each round every one runs alone for a few seconds
while the others are stopped (SIGSTOP), in an order that changes. A round's figure is the time of a step over those that
lie wholly in its turn. All have malloc on huge pages. The library runs its real command with real data, log and
checkpoints; "update alone" calls its compiled update on one batch again and again, and the distance between the two is
what the loop costs. --torch_python names a Python that has requirements-oracles.txt.
"""

import argparse
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.bare import CELLS
from llm_jax.cli.flags import HUGE_PAGES

ROOT = Path(__file__).parent.parent
TURN = {"S": 2.5, "M": 4.0, "G": 7.0}  # seconds of a turn
ENVIRONMENT = {**os.environ, **HUGE_PAGES, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


class Program:
    """A training program that is stopped except in its turns; it tells the time of each step in a file."""

    def __init__(self, name: str, command: list[str], rows: Path, scratch: Path):
        self.name, self._rows = name, rows
        self._began = time.perf_counter()
        self._log = open(scratch / f"{name}.log", "w")  # noqa: SIM115  # lives as long as the process
        out = open(rows, "w") if not rows.name.startswith("metrics") else self._log  # noqa: SIM115
        self._process = subprocess.Popen(command, stdout=out, stderr=self._log, env=ENVIRONMENT, cwd=ROOT)
        self.first_step = self._wait_for_rows(1)
        self._wait_for_rows(3)
        self._process.send_signal(signal.SIGSTOP)

    def _wait_for_rows(self, count: int) -> float:
        while not self._rows.exists() or self._rows.read_text().count("\n") < count:
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.name} ended: {Path(self._log.name).read_text()[-2000:]}")
            time.sleep(0.02)
        return time.perf_counter() - self._began

    def turn(self, seconds: float) -> float:
        """Run for so long and return the seconds of a step: over all steps that lie wholly in the turn."""
        before = self._rows.read_text().count("\n")
        stamps: list[tuple[float, int]] = []
        self._process.send_signal(signal.SIGCONT)
        until = time.perf_counter() + seconds
        known = before
        while time.perf_counter() < until or len(stamps) < 3:
            time.sleep(0.001)
            now = self._count(known)
            if now > known:
                stamps.append((time.perf_counter(), now))
                known = now
        self._process.send_signal(signal.SIGSTOP)
        steps = (stamps[-1][1] - stamps[0][1]) * self.steps_a_row
        return (stamps[-1][0] - stamps[0][0]) / steps

    def _count(self, known: int) -> int:
        return max(known, self._rows.read_text().count("\n"))

    steps_a_row = 1

    def end(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()
        self._log.close()


def tokens_of(cell: str, scratch: Path) -> Path:
    """Write the tokens that the library trains on in this cell as a file of uint16, and return it."""
    from llm_jax.data.mixture import Component, open_shards
    from llm_jax.run import build
    from llm_jax.run.config import load_recipe, resolve

    parts, _ = build.check(resolve(load_recipe(f"{ROOT}/benchmarks/cells.py:{cell}")))
    words = build.tokenizer(parts.data)
    shard = open_shards(Component("sotu", {}, 1.0), "train", 0, words)[0]
    path = scratch / f"tokens_{cell}.bin"
    np.asarray(shard.tokens, np.uint16).tofile(path)
    return path


def compare(cell: str, rounds: int, torch_python: str | None, scratch: Path) -> dict[str, dict[str, list[float]]]:
    """Return, for each program of a cell, its seconds a step in each round and its seconds to the first step."""
    tokens, workdir = tokens_of(cell, scratch), scratch / f"workdir_{cell}"
    train = ["train", f"--config=benchmarks/cells.py:{cell}", f"--workdir={workdir}"]
    commands = {
        "llm_jax": ([sys.executable, "-m", "llm_jax", *train], workdir / "metrics.jsonl"),
        "update alone": (
            [sys.executable, "-m", "benchmarks.training", "--update_alone"],
            scratch / f"update_{cell}.jsonl",
        ),
        "bare": ([sys.executable, "-m", "benchmarks.bare"], scratch / f"bare_{cell}.jsonl"),
    }
    if torch_python:
        commands["transformers"] = ([torch_python, "-m", "benchmarks.peer_transformers"], scratch / f"hf_{cell}.jsonl")
    programs = []
    for name, (command, rows) in commands.items():
        own = ["--cell", cell, "--steps", "1000000", "--tokens", str(tokens)]
        own = {"llm_jax": [], "update alone": ["--cells", cell]}.get(name, own)
        programs.append(Program(name, command + own, rows, scratch))
        programs[-1].steps_a_row = 10 if (name, cell) == ("llm_jax", "S") else 1
    seconds: dict[str, list[float]] = {p.name: [] for p in programs}
    order = random.Random(0)
    try:
        for number in range(rounds):
            for program in order.sample(programs, len(programs)):
                seconds[program.name].append(program.turn(TURN[cell]))
            print(cell, number + 1, {n: round(1e3 * s[-1], 1) for n, s in seconds.items()}, file=sys.stderr, flush=True)
    finally:
        for program in programs:
            program.end()
    return {p.name: {"step": seconds[p.name], "first": [p.first_step]} for p in programs}


def update_alone(cell: str) -> None:
    """Call the compiled update on one batch for ever; print a line a step, the next one dispatched before."""
    import jax

    from llm_jax.mesh import hosts
    from llm_jax.run import build
    from llm_jax.run.config import load_recipe, resolve

    run = build.build(resolve(load_recipe(f"{ROOT}/benchmarks/cells.py:{cell}")))
    batch = hosts.to_devices(run.data.train.batch(0), run.sections.data.batch_size)
    state, pending = jax.jit(run.learner.init)(jax.random.key(0)), None
    update = jax.jit(run.learner.update, donate_argnums=0)
    while True:
        state, stats = update(state, batch)
        if pending is not None:
            print(json.dumps({"loss": float(jax.device_get(pending)["loss"].value)}), flush=True)
        pending = stats


def spread(values: list[float], form: str) -> str:
    """Return "median (minimum to maximum)"."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def table(results: dict[str, dict[str, dict[str, list[float]]]]) -> str:
    """Return the Markdown table of all cells."""
    lines = [
        "| cell | program | tokens/s | llm_jax / it, round by round | first step, s |",
        "|---|---|---|---|---|",
    ]
    for cell, programs in results.items():
        tokens = CELLS[cell].B * CELLS[cell].T
        for name, found in programs.items():
            speed = [tokens / s for s in found["step"]]
            ours = [theirs / mine for theirs, mine in zip(found["step"], programs["llm_jax"]["step"], strict=True)]
            ratio = "" if name == "llm_jax" else f"**{spread(ours, '.3f')}**"
            lines.append(f"| {cell} | {name} | {spread(speed, ',.0f')} | {ratio} | {found['first'][0]:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Run all cells and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", default="S,M,G")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", default=None)
    parser.add_argument("--torch_python", default=None)
    parser.add_argument("--update_alone", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.update_alone:
        return update_alone(flags.cells)
    scratch = Path(tempfile.mkdtemp(prefix="llm_jax_bench_"))
    try:
        results = {c: compare(c, flags.rounds, flags.torch_python, scratch) for c in flags.cells.split(",")}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    text = table(results)
    print(text)
    if flags.out:
        machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
        head = f"# Training speed\n\nMedian (minimum to maximum) of {flags.rounds} interleaved rounds; {machine}.\n\n"
        Path(flags.out).write_text(f"{head}{text}\n\n{json.dumps({c: CELLS[c]._asdict() for c in results})}\n")
    return None


if __name__ == "__main__":
    main()
