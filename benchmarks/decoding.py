"""Decoding speed: this library and transformers' cached `generate`, GPT-2 models with random weights, in turns.

    python -m benchmarks.decoding --cells=M,G --rounds=9 --out=benchmarks/DECODING.md [--torch_python=python]

Prompts of 32 tokens, 128 new ones, greedy, float32. Both programs start once, warm up, and then take turns, one
generation at a time, so that neither runs while the other is timed; both have malloc on huge pages. --torch_python
names a Python that has requirements-oracles.txt; --threads bounds torch (pin the whole benchmark with taskset to bound
both). Wall time is what a user waits for; tokens a CPU-second are what to read on a machine that others use.
"""

import argparse
import os
import platform
import random
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.bare import CELLS
from benchmarks.training import ENVIRONMENT, ROOT, spread

PROMPT, NEW = 32, 128
BATCHES = (1, 8)


def ours(cell: str, rows: int):
    """Return a function that generates once with this library; weights are prepared and compiled code is warm."""
    import jax
    import numpy as np

    from llm_jax.decode.filters import Sampling
    from llm_jax.decode.sample import generate, unstacked
    from llm_jax.models.decoder.gpt2 import GPT2

    c = CELLS[cell]
    model = GPT2(vocab_size=c.V, max_positions=PROMPT + NEW, num_layers=c.L, embed_dim=c.D, num_heads=c.H, mlp_dim=c.F)
    params = unstacked(model, jax.jit(model.init)(jax.random.key(0)))
    prompts = np.random.default_rng(0).integers(0, c.V, (rows, PROMPT)).tolist()
    greedy = Sampling(temperature=0.0)
    return lambda: generate(model, params, prompts, max_new_tokens=NEW, settings=greedy)


def transformers(cell: str, rows: int, threads: int | None):
    """Return a function that generates once with transformers' GPT-2 on torch CPU, with its default cache."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    if threads:
        torch.set_num_threads(threads)
    c = CELLS[cell]
    config = GPT2Config(
        vocab_size=c.V, n_positions=PROMPT + NEW, n_embd=c.D, n_layer=c.L, n_head=c.H, n_inner=c.F, bos_token_id=None,
        eos_token_id=None,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    tokens = torch.randint(0, c.V, (rows, PROMPT), generator=torch.Generator().manual_seed(0))
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "use_cache": True, "pad_token_id": 0}

    def run() -> None:
        with torch.inference_mode():
            model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)

    return run


def serve(program: str, cell: str, rows: int, threads: int | None) -> None:
    """Generate once for every line on standard input; answer with the wall and CPU seconds that it took."""
    run = ours(cell, rows) if program == "llm_jax" else transformers(cell, rows, threads)
    for _ in range(2):
        run()
    print("ready", flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        print("took", time.perf_counter() - wall, time.process_time() - cpu, flush=True)


class Program:
    """One of the two in a process of its own, which waits to be asked."""

    def __init__(self, name: str, python: str, cell: str, rows: int, threads: int | None):
        command = [python, "-m", "benchmarks.decoding", "--serve", name, "--cells", cell, "--rows", str(rows)]
        command += ["--threads", str(threads)] if threads else []
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, text=True, env=ENVIRONMENT, cwd=ROOT, **pipes)  # type: ignore[call-overload]
        self._answer("ready")

    def _answer(self, word: str) -> list[float]:
        for line in self._process.stdout:
            if line.startswith(word):
                return [float(x) for x in line.split()[1:]]
        raise RuntimeError(f"{' '.join(self._process.args)} ended; run it by hand to see why")

    def turn(self) -> list[float]:
        """Generate once and return the seconds by the clock and of the processor."""
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._answer("took")

    def end(self) -> None:
        """Let it finish."""
        self._process.communicate()


def compare(cell: str, rows: int, rounds: int, flags: argparse.Namespace) -> dict[str, list[list[float]]]:
    """Return, for each program, the wall and CPU seconds of a generation in each round."""
    pythons = {"llm_jax": sys.executable, **({"transformers": flags.torch_python} if flags.torch_python else {})}
    programs = {name: Program(name, python, cell, rows, flags.threads) for name, python in pythons.items()}
    taken: dict[str, list[list[float]]] = {name: [] for name in programs}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(programs), len(programs)):
            taken[name].append(programs[name].turn())
    for program in programs.values():
        program.end()
    return taken


def lines(cell: str, rows: int, taken: dict[str, list[list[float]]]) -> list[str]:
    """Return the rows of the table for one cell and batch size."""
    out = []
    for name, seconds in taken.items():
        speeds = [spread([rows * NEW / s[kind] for s in seconds], ",.0f") for kind in (0, 1)]
        pairs = list(zip(seconds, taken["llm_jax"], strict=True))
        ratios = ["", ""] if name == "llm_jax" else [spread([a[k] / b[k] for a, b in pairs], ".2f") for k in (0, 1)]
        out.append(f"| {cell} | {rows} | {name} | {speeds[0]} | **{ratios[0]}** | {speeds[1]} | {ratios[1]} |")
    return [line.replace("****", "") for line in out]


def main() -> None:
    """Run all cells and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", default="M,G")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", default=None)
    parser.add_argument("--torch_python", default=None)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--serve", choices=("llm_jax", "transformers"), help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, default=None, help="only this batch size")
    flags = parser.parse_args()
    if flags.serve:
        return serve(flags.serve, flags.cells, flags.rows, flags.threads)
    table = [
        "| cell | batch | program | tokens/s | llm_jax / it | tokens/CPU-s | llm_jax / it |",
        "|---|---|---|---|---|---|---|",
    ]
    for cell in flags.cells.split(","):
        for rows in [flags.rows] if flags.rows else BATCHES:
            table += lines(cell, rows, compare(cell, rows, flags.rounds, flags))
            print(*table[-2:], sep="\n", file=sys.stderr, flush=True)
    print(*table, sep="\n")
    if flags.out:
        machine = f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, Python {platform.python_version()}"
        what = f"Prompt {PROMPT}, {NEW} new tokens, greedy, float32; median (minimum to maximum), {flags.rounds} rounds"
        Path(flags.out).write_text("\n".join([f"# Decoding speed\n\n{what}; {machine}.\n", *table, ""]))
    return None


if __name__ == "__main__":
    main()
