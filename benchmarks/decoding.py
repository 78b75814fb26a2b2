"""Decoding speed: this library, transformers' cached `generate` and llama.cpp, in turns.

    python -m benchmarks.decoding --cells=M,G,runs/smollm2 --rounds=9 --out=benchmarks/DECODING.md \\
        [--torch_python=python] [--llama_python=python]

A cell is a GPT-2 with random weights, or the workdir of a model, which is exported for the others. Prompts of 32
tokens, 128 new ones, greedy, float32 everywhere. The programs start once, warm up, and then take turns, one generation
at a time, so that none runs while another is timed; all have malloc on huge pages. --torch_python names a Python that
has requirements-oracles.txt, --llama_python one that has llama-cpp-python (workdirs only); --threads bounds these two
(pin the whole benchmark with taskset to bound all). Wall time is what a user waits for; tokens a CPU-second are what to
read on a machine that others use.
"""

import argparse
import atexit
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from benchmarks.bare import CELLS
from benchmarks.training import ENVIRONMENT, ROOT, spread

PROMPT, NEW = 32, 128
BATCHES = (1, 8)


def ours(cell: str, rows: int, _threads: int | None = None):
    """Return a function that generates once with this library; weights are prepared and compiled code is warm."""
    import jax

    from llm_jax.decode.filters import Sampling
    from llm_jax.decode.sample import generate, unstacked
    from llm_jax.models.decoder.gpt2 import GPT2
    from llm_jax.run.open_run import open_run

    if cell in CELLS:
        c = CELLS[cell]
        sizes = {"num_layers": c.L, "embed_dim": c.D, "num_heads": c.H, "mlp_dim": c.F}
        model: Any = GPT2(vocab_size=c.V, max_positions=PROMPT + NEW, **sizes)
        params = jax.jit(model.init)(jax.random.key(0))
    else:
        opened = open_run(epath.Path(cell))
        model, params = opened.model, opened.params()
    params = unstacked(model, params)
    greedy = Sampling(temperature=0.0)
    return lambda: generate(model, params, prompts(cell, rows), max_new_tokens=NEW, settings=greedy)


def prompts(cell: str, rows: int) -> list[list[int]]:
    """Return the same random ids for every program."""
    return np.random.default_rng(0).integers(0, CELLS[cell].V if cell in CELLS else 40_000, (rows, PROMPT)).tolist()


def transformers(cell: str, rows: int, threads: int | None):
    """Return a function that generates once with transformers on torch CPU, with its default cache."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

    if threads:
        torch.set_num_threads(threads)
    if cell in CELLS:
        c = CELLS[cell]
        config = GPT2Config(
            vocab_size=c.V, n_positions=PROMPT + NEW, n_embd=c.D, n_layer=c.L, n_head=c.H, n_inner=c.F,
            bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        model = GPT2LMHeadModel(config).eval()
    else:
        model = AutoModelForCausalLM.from_pretrained(Path(cell) / "hf", dtype=torch.float32).eval()
        model.generation_config.eos_token_id = None
    tokens = torch.tensor(prompts(cell, rows))
    options = {"max_new_tokens": NEW, "do_sample": False, "use_cache": True, "pad_token_id": 0}

    def run() -> list[list[int]]:
        with torch.inference_mode():
            made = model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)
        return made[:, PROMPT:].tolist()

    return run


def llama_cpp(cell: str, rows: int, threads: int | None):
    """Return a function that generates once with llama.cpp: one batch of all rows a step, the greatest logit taken."""
    import llama_cpp as c

    model = c.llama_model_load_from_file(os.fsencode(Path(cell) / "model.gguf"), c.llama_model_default_params())
    options = c.llama_context_default_params()
    options.n_ctx, options.n_seq_max, options.n_batch = rows * (PROMPT + NEW), rows, rows * PROMPT
    options.n_threads = options.n_threads_batch = threads or len(os.sched_getaffinity(0))
    context = c.llama_init_from_model(model, options)
    vocabulary = c.llama_vocab_n_tokens(c.llama_model_get_vocab(model))
    batch = c.llama_batch_init(rows * PROMPT, 0, 1)

    def read(texts: list[list[int]], start: int) -> list[int]:
        batch.n_tokens = 0
        for row, ids in enumerate(texts):
            for place, token in enumerate(ids):
                i, batch.n_tokens = batch.n_tokens, batch.n_tokens + 1
                batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, start + place, 1
                batch.seq_id[i][0], batch.logits[i] = row, place == len(ids) - 1
        if c.llama_decode(context, batch):
            raise RuntimeError("llama_decode failed")
        last = [sum(map(len, texts[: row + 1])) - 1 for row in range(len(texts))]
        logits = (c.llama_get_logits_ith(context, i) for i in last)
        return [int(np.ctypeslib.as_array(row, (vocabulary,)).argmax()) for row in logits]

    def run() -> list[list[int]]:
        c.llama_memory_clear(c.llama_get_memory(context), True)
        made = [read(prompts(cell, rows), 0)]
        for index in range(NEW - 1):
            made.append(read([[token] for token in made[-1]], PROMPT + index))
        return [list(row) for row in zip(*made, strict=True)]

    return run


PROGRAMS = {"llm_jax": ours, "transformers": transformers, "llama.cpp": llama_cpp}


def serve(program: str, cell: str, rows: int, threads: int | None) -> None:
    """Generate once for every line on standard input; answer with the wall and CPU seconds that it took."""
    run = PROGRAMS[program](cell, rows, threads)
    run()
    print("ready", zlib.crc32(str(run()).encode()), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        print("took", time.perf_counter() - wall, time.process_time() - cpu, flush=True)


class Program:
    """One of them in a process of its own, which waits to be asked."""

    def __init__(self, name: str, python: str, cell: str, rows: int, threads: int | None):
        command = [python, "-m", "benchmarks.decoding", "--serve", name, "--cells", cell, "--rows", str(rows)]
        command += ["--threads", str(threads)] if threads else []
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, text=True, env=ENVIRONMENT, cwd=ROOT, **pipes)  # type: ignore[call-overload]
        self.made = self._answer("ready")

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
    pythons = {"llm_jax": sys.executable, "transformers": flags.torch_python}
    if cell not in CELLS:
        pythons["llama.cpp"] = flags.llama_python
    programs = {
        name: Program(name, python, exported(cell, name), rows, flags.threads)
        for name, python in pythons.items()
        if python
    }
    if cell not in CELLS and len({tuple(program.made) for program in programs.values()}) > 1:
        print(f"{cell}, batch {rows}: the programs' greedy texts differ", file=sys.stderr)
    taken: dict[str, list[list[float]]] = {name: [] for name in programs}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(programs), len(programs)):
            taken[name].append(programs[name].turn())
    for program in programs.values():
        program.end()
    return taken


@cache
def _exported(workdir: str) -> str:
    target = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, target)
    for kind, to in (("hf", f"{target}/hf"), ("gguf", f"{target}/gguf")):
        verb = [sys.executable, "-m", "llm_jax", "export", "--workdir", workdir, "--to", to, "--format", kind]
        subprocess.run(verb, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    Path(target, "gguf", "model.gguf").rename(Path(target, "model.gguf"))
    return target


def exported(cell: str, program: str) -> str:
    """Return where a program finds a cell's model: the cell itself, or what was exported from a workdir."""
    return cell if cell in CELLS or program == "llm_jax" else _exported(cell)


def lines(cell: str, rows: int, taken: dict[str, list[list[float]]]) -> list[str]:
    """Return the rows of the table for one cell and batch size."""
    out = []
    for name, seconds in taken.items():
        speeds = [spread([rows * NEW / s[kind] for s in seconds], ",.0f") for kind in (0, 1)]
        pairs = list(zip(seconds, taken["llm_jax"], strict=True))
        ratios = ["", ""] if name == "llm_jax" else [spread([a[k] / b[k] for a, b in pairs], ".2f") for k in (0, 1)]
        out.append(
            f"| {Path(cell).name} | {rows} | {name} | {speeds[0]} | **{ratios[0]}** | {speeds[1]} | {ratios[1]} |"
        )
    return [line.replace("****", "") for line in out]


def main() -> None:
    """Run all cells and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", default="M,G")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", default=None)
    parser.add_argument("--torch_python", default=None)
    parser.add_argument("--llama_python", default=None)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--serve", choices=PROGRAMS, help=argparse.SUPPRESS)
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
            print(*table[-3:], sep="\n", file=sys.stderr, flush=True)
    print(*table, sep="\n")
    if flags.out:
        machine = f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, Python {platform.python_version()}"
        what = f"Prompt {PROMPT}, {NEW} new tokens, greedy, float32; median (minimum to maximum), {flags.rounds} rounds"
        Path(flags.out).write_text("\n".join([f"# Decoding speed\n\n{what}; {machine}.\n", *table, ""]))
    return None


if __name__ == "__main__":
    main()
