"""What privacy costs: the recipe of private training, beside its start, without it, and without privacy.

    pip install -r requirements-oracles.txt
    python -m benchmarks.privacy [--out=benchmarks/PRIVACY.md]

Trains each kind of configs/private_sotu.py below runs/ (or takes what is there). Epsilon is that of the run, beside
those of dp-accounting (Google) for the same steps and samples: by Renyi's divergence, as ours, and by the distribution
of the privacy loss, which is tight.
"""

import argparse
from pathlib import Path

import jax

from benchmarks import verbs
from llm_jax.data.build import build
from llm_jax.evals.perplexity import Estimate
from llm_jax.run import build as runs
from llm_jax.run import evaluate
from llm_jax.run.judge.kinds import evaluator
from llm_jax.run.open_run import OpenRun, open_run

KINDS = {  # kind of the recipe -> workdir, what it is
    "public": ("runs/private_public", "the public start alone"),
    "private": ("runs/private_sotu", "private, from the public start"),
    "scratch": ("runs/private_scratch", "private, from nothing"),
    "open": ("runs/private_open", "not private, from the public start"),
}
HEADER = """| model | steps | epsilon | dp-accounting, Renyi | tight | held-out bits per byte |
|---|---|---|---|---|---|"""
ROWS = 64  # of a batch of held-out text


def main() -> None:
    """Print the page, and write it."""
    parser = argparse.ArgumentParser(prog="benchmarks.privacy")
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    lines = [line(kind, *where) for kind, where in KINDS.items()]
    section = open_run(KINDS["private"][0]).config.private
    note = f"At delta {section.delta:g}, of a row of 128 tokens more or less. jax {jax.__version__}."
    page = "\n".join(["# What privacy costs", "", "python -m benchmarks.privacy", "", HEADER, *lines, "", note, ""])
    print(page)
    if flags.out:
        flags.out.write_text(page)


def line(kind: str, workdir: str, what: str) -> str:
    """Train a kind of the recipe, and return its line of the table."""
    verbs.run("train", f"--config=configs/private_sotu.py:{kind}", f"--workdir={workdir}")
    run = open_run(workdir)
    bits = held_out(run)
    told = " | ".join(f"{found:.3f}" for found in epsilons(run)) or " | | "
    return f"| {what} | {run.steps[-1]} | {told} | {bits.value:.3f} ± {bits.error:.3f} |"


def epsilons(run: OpenRun) -> list[float]:
    """Return epsilon by the run's own account and by dp-accounting's two; nothing of a run that promises none."""
    import dp_accounting as dp
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

    counted, steps = runs.build(run.resolved, words=run.tokenizer).accountant, run.steps[-1]
    if counted is None:
        return []
    event = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(counted.rate, dp.GaussianDpEvent(counted.noise)), steps)
    theirs = (RdpAccountant(), PLDAccountant(value_discretization_interval=1e-3))
    return [counted.epsilon(steps), *(each.compose(event).get_epsilon(counted.delta) for each in theirs)]


def held_out(run: OpenRun) -> Estimate:
    """Return bits per byte of the speeches that are held out."""
    length = run.config.data.seq_len
    loader = build(tokenizer=run.tokenizer, source="sotu", seq_len=length, batch_size=ROWS).validation
    assert loader is not None
    judge = evaluator(run.model, run.objective, "gradient")
    return evaluate.held_out(judge, run.params(), loader, ROWS)["bits_per_byte"]


if __name__ == "__main__":
    main()
