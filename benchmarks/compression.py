"""Smaller models of a run: what each weighs, how fast it reads and writes, and how well it predicts.

    python -m benchmarks.compression [--workdir=runs/quickstart] [--workdir=runs/smollm2] [--data=sotu] [--rows=16]
        [--students=runs] [--rounds=3] [--batches=N] [--ways=int8] [--out=benchmarks/COMPRESSION.md]

Each is made of the run by `compress`, without any further training. With --students the recipes of smaller models
(configs/distill.py, configs/prune.py) are trained below that directory, unless they are there, and measured beside the
first run. Bits per byte are of the text that a run holds out, and of --data's where it has none of its own. Speeds are
taken in turns, one pass each.
"""

import argparse
import os
import platform
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.training import ROOT, spread
from llm_jax.cli import main as llm_jax
from llm_jax.core import tree
from llm_jax.data.build import build
from llm_jax.decode.filters import Sampling
from llm_jax.decode.sample import generate, unstacked
from llm_jax.evals.perplexity import Estimate
from llm_jax.run import evaluate
from llm_jax.run.judge.kinds import evaluator
from llm_jax.run.open_run import OpenRun, open_run

KERNELS = "--embeddings=float32"  # kernels alone are packed
WAYS = {
    "int8, a scale each output": ["--quantize=int8", KERNELS],
    "int8, groups of 64": ["--quantize=int8", "--group=64", KERNELS],
    "int8, embeddings too": ["--quantize=int8"],
    "int4, a scale each output": ["--quantize=int4", "--group=channel", KERNELS],
    "int4, groups of 64": ["--quantize=int4", KERNELS],
    "int4, groups of 16": ["--quantize=int4", "--group=16", KERNELS],
    "int4, groups of 64, embeddings int8": ["--quantize=int4"],
    "nf4, groups of 64": ["--quantize=nf4", KERNELS],
    "half pruned": ["--prune=0.5"],
    "2:4 pruned": ["--prune=2:4"],
    "half pruned, int8": ["--prune=0.5", "--quantize=int8", KERNELS],
}
STUDENTS = {  # what it is -> recipe, name of its workdir
    "half pruned in training": ("configs/prune.py", "prune"),
    "2:4 pruned in training": ("configs/prune.py:2:4", "prune_2_4"),
    "half the width, taught": ("configs/distill.py", "distill"),
    "half the width, alone": ("configs/distill.py:alone", "distill_alone"),
}
NOTE = (
    "MB on disk is the checkpoint: of a run that was trained, with the state of its optimizer; zeros are stored as they"
    " are. Speeds are medians of passes in turns (fastest and slowest), beside whatever else ran."
)
NEW = 128  # tokens of a text that is written


@dataclass(frozen=True)
class Measured:
    """One model: its size in bytes, of the parameters and of the checkpoint on disk; its zeros; and what it does.

    read, write: run once, and return how many tokens were read or written.
    """

    parameters: int
    stored: int
    on_disk: int
    zeros: float
    bits: Estimate
    perplexity: Estimate
    read: Callable[[], int]
    write: Callable[[], int]


def measured(workdir: str, data: str, rows: int, batches: int | None) -> Measured:
    """Return the measures of a workdir."""
    opened = open_run(workdir)
    params, loader = opened.params(), held_out(opened, data)
    judge = evaluator(opened.model, opened.objective, opened.resolved.values["train"]["learner"])
    found = evaluate.held_out(judge, params, loader, rows, batches)
    few = list(loader.once(rows, limit=min(8, batches or 8)))
    greedy = Sampling(temperature=0.0)
    prepared = unstacked(opened.model, params)  # type: ignore[arg-type]

    def read() -> int:
        sums = judge.of(params, rows)
        for batch in few:
            jax.block_until_ready(sums(batch))
        return sum(batch["tokens"].size for batch in few)

    def write() -> int:
        made = generate(opened.model, prepared, [[1, 2, 3, 4]], max_new_tokens=NEW, settings=greedy)
        return sum(map(len, made))

    leaves = tree.flatten(params)
    kernels = [
        x for path, x in leaves.items() if path.startswith("blocks/") and not path.endswith(("norm/scale", "scales"))
    ]
    kernels = [x for x in kernels if x.ndim > 2 and x.dtype != np.uint8]  # of int4 a byte is two codes
    zeros = sum(int((x == 0).sum()) for x in kernels) / max(1, sum(x.size for x in kernels))
    base = getattr(opened.model, "base", opened.model)
    size = sum(int(np.prod(d.shape)) for d in base.declarations().values())
    step = Path(str(opened.workdir.checkpoints)) / str(opened.steps[-1])
    on_disk = sum(f.stat().st_size for f in step.rglob("*") if f.is_file())
    return Measured(
        size, tree.num_bytes(params), on_disk, zeros, found["bits_per_byte"], found["perplexity"], read, write
    )


def held_out(opened: OpenRun, data: str) -> Any:
    """Return the loader of a run's held-out text, or of that of `data` where it has none."""
    values = opened.resolved.values["data"]
    kept = {key: values[key] for key in ("seq_len", "batch_size", "packing", "normalization")}
    own = values["source"] is not None or values["mixture"] is not None
    where = {key: values[key] for key in ("source", "options", "mixture")} if own else {"source": data}
    loader = build(tokenizer=opened.tokenizer, **kept, **where).validation
    if loader is None:
        raise SystemExit(f"{opened.workdir.path} holds no text out; give --data")
    return loader


def ran(*words: str) -> None:
    """Run one verb, or end."""
    if llm_jax(list(words)):
        raise SystemExit(f"llm_jax {' '.join(words)} failed")


def speeds(models: dict[str, Measured], rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Return tokens a second that each model reads and writes, in turns, the first not counted."""
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in models}
    for number in range(rounds + 1):
        for name in random.Random(number).sample(list(models), len(models)):
            for kind, work in enumerate((models[name].read, models[name].write)):
                began = time.perf_counter()
                tokens = work()
                if number:
                    found[name][kind].append(tokens / (time.perf_counter() - began))
    return found


def table(models: dict[str, Measured], found: dict[str, tuple[list[float], list[float]]]) -> str:
    """Return the Markdown table."""
    first = next(iter(models.values()))
    lines = [
        "| model | parameters | MB in memory | MB on disk | zeros | bits per byte | to float32 | perplexity | "
        "reads, tokens/s | writes, tokens/s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, m in models.items():
        change = f"{m.bits.value - first.bits.value:+.4f}" if m is not first else ""
        zeros = f"{m.zeros:.0%}" if m.zeros > 0.1 and "int4" not in name else ""
        lines.append(
            f"| {name} | {m.parameters:,} | {m.stored / 1e6:.2f} | {m.on_disk / 1e6:.2f} | {zeros} | "
            f"{m.bits.value:.4f} ± {m.bits.error:.4f} | {change} | {m.perplexity.value:.3f} | "
            f"{spread(found[name][0], ',.0f')} | {spread(found[name][1], ',.0f')} |"
        )
    return "\n".join(lines)


def report(workdir: str, flags: argparse.Namespace, students: str | None) -> str:
    """Make the smaller models of a workdir, measure them, and return the section of the page."""
    given = (flags.data, flags.rows, flags.batches)
    models = {"float32": measured(workdir, *given)}
    with tempfile.TemporaryDirectory() as folder:
        for name, words in WAYS.items():
            if re.search(flags.ways, name):
                to = f"{folder}/{len(models)}"
                ran("compress", f"--workdir={workdir}", f"--to={to}", *words)
                models[name] = measured(to, *given)
        for name, (recipe, where) in STUDENTS.items() if students else ():
            to = f"{students}/{where}"
            ran("train", f"--config={ROOT / recipe}", f"--workdir={to}", "--no_huge_pages")
            models[name] = measured(to, *given)
        text = table(models, speeds(models, flags.rounds))
    return f"## {Path(workdir).name}\n\n{text}\n"


def main() -> None:
    """Print the page, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", action="append", help="of a run; may be given several times")
    parser.add_argument("--data", default="sotu", help="a source whose held-out text is read where a run has none")
    parser.add_argument("--rows", type=int, default=16, help="of a batch")
    parser.add_argument("--batches", type=int, help="of held-out text at most (default: all)")
    parser.add_argument("--students", metavar="DIR", help="where the recipes of smaller models are trained")
    parser.add_argument("--ways", default="", help="only those in whose name this regular expression is found")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    workdirs = flags.workdir or ["runs/quickstart"]
    sections = [report(workdir, flags, flags.students if i == 0 else None) for i, workdir in enumerate(workdirs)]
    cores = len(os.sched_getaffinity(0))
    machine = f"{platform.machine()}, {cores} cores, jax {jax.__version__}; load {os.getloadavg()[0]:.1f} at the end."
    told = " ".join(word for word in sys.argv[1:] if not word.startswith("--out"))
    page = "\n".join(
        ["# Smaller models", "", f"python -m benchmarks.compression {told}", "", NOTE, "", *sections, machine, ""]
    )
    print(page)
    if flags.out:
        flags.out.write_text(page)


if __name__ == "__main__":
    main()
