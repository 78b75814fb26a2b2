"""Training speed of recurrent models: the recipes of LSTM and GRU, and torch's nn.LSTM and nn.GRU on the same batches.

    python -m benchmarks.recurrent [--rounds=9] [--out=benchmarks/RECURRENT.md]

Each program makes whole steps: the recipe's sizes, tied embeddings, dropout, a state carried from batch to batch,
AdamW, the loss read after each. In each round every program has a turn, in an order that changes.
Needs requirements-oracles.txt.
"""

import argparse
import json
import os
import platform
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import torch

from benchmarks.training import ROOT, spread
from llm_jax.cli.flags import HUGE_PAGES
from llm_jax.mesh import hosts
from llm_jax.run import build
from llm_jax.run.build import Run
from llm_jax.run.config import load_recipe, resolve

Step = Callable[[dict[str, Any]], float]  # a batch -> its loss
LAYERS = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}


def recipe(name: str) -> Run:
    """Return the run of a family's recipe."""
    return build.build(resolve(load_recipe(f"{ROOT}/configs/{name}_sotu.py")))


def ours(run: Run) -> Step:
    """Return a step of this library."""
    state, update = jax.jit(run.learner.init)(jax.random.key(0)), jax.jit(run.learner.update, donate_argnums=0)

    def step(batch: dict[str, Any]) -> float:
        nonlocal state
        state, stats = update(state, hosts.to_devices(batch, len(batch["tokens"])))
        return float(jax.device_get(stats["loss"]).value)

    return step


def torchs(run: Run, layer: type[torch.nn.Module]) -> Step:
    """Return a step of torch."""
    model, optimizer = run.config.values["model"], run.config.values["optimizer"]
    width, drop = model["embed_dim"], torch.nn.Dropout(model["dropout"])
    table = torch.nn.Embedding(run.tokenizer.vocab_size, width)
    torch.nn.init.normal_(table.weight, std=width**-0.5)
    cells = layer(width, width, model["num_layers"], dropout=model["dropout"], batch_first=True)
    descent = torch.optim.AdamW(
        [*table.parameters(), *cells.parameters()], lr=optimizer["learning_rate"],
        weight_decay=optimizer["weight_decay"], fused=True,
    )  # fmt: skip
    state: Any = None

    def step(batch: dict[str, Any]) -> float:
        nonlocal state
        tokens, targets = (torch.as_tensor(batch[k], dtype=torch.long) for k in ("tokens", "targets"))
        out, after = cells(drop(table(tokens) * width**0.5), state)
        state = tuple(part.detach() for part in after) if isinstance(after, tuple) else after.detach()
        logits = drop(out) @ table.weight.T
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        descent.step()
        descent.zero_grad(set_to_none=True)
        return loss.item()

    return step


def compare(name: str, rounds: int, seconds: float) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return the tokens a second of each program in each round, and its last loss in nats a token."""
    run = recipe(name)
    batches = [run.data.train.batch(step) for step in range(64)]
    programs = {"llm_jax": ours(run), f"torch {LAYERS[name].__name__}": torchs(run, LAYERS[name])}
    speeds: dict[str, list[float]] = {program: [] for program in programs}
    losses, taken, order = {}, dict.fromkeys(programs, 0), random.Random(0)
    for number in range(rounds + 1):  # the first compiles, and does not count
        for program in order.sample(list(programs), len(programs)):
            began, steps = time.perf_counter(), 0
            while time.perf_counter() - began < seconds or steps < 3:
                losses[program] = programs[program](batches[taken[program] % len(batches)])
                taken[program] += 1
                steps += 1
            speed = steps * run.tokens_per_step / (time.perf_counter() - began)
            speeds[program] += [speed] if number else []
    return speeds, losses


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a turn")
    parser.add_argument("--out", type=Path, default=None)
    flags = parser.parse_args()
    if any(os.environ.get(k) != v for k, v in HUGE_PAGES.items()):  # for both, and before either has begun
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **HUGE_PAGES, "JAX_PLATFORMS": "cpu"})
    lines = ["| model | program | tokens/s | llm_jax / it, round by round | last loss |", "|---|---|---|---|---|"]
    for name in LAYERS:
        speeds, losses = compare(name, flags.rounds, flags.seconds)
        for program, found in speeds.items():
            ours = [mine / theirs for mine, theirs in zip(speeds["llm_jax"], found, strict=True)]
            ratio = "" if program == "llm_jax" else f"**{spread(ours, '.3f')}**"
            lines.append(f"| {name} | {program} | {spread(found, ',.0f')} | {ratio} | {losses[program]:.2f} |")
    text = "\n".join(lines)
    print(text)
    if flags.out:
        machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
        sizes = json.dumps({k: v for k, v in recipe("lstm").config.values["model"].items() if k != "name"})
        head = f"Median (minimum to maximum) of {flags.rounds} rounds in turn; {machine}, torch {torch.__version__}."
        flags.out.write_text(f"# Training speed of recurrent models\n\n{head}\n\n{text}\n\n{sizes}\n")


if __name__ == "__main__":
    main()
