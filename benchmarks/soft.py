"""A student of a service's likeliest tokens and one of its texts alone, beside transformers and torch, in one run.

    python -m benchmarks.soft --workdir=runs/soft [--seeds=3] [--foreign=1] [--config.train.duration="100 steps"]

Trains configs/soft.py:soft and :text with each seed (or takes what the workdirs hold), and with the first `foreign` of
them, in torch, transformers' model of the same first parameters on the same batches at the same rates; the divergence
is torch's own, over the tokens that are told and all others as one. All are judged by the same: the nats a token of
the held-out answers, with their standard error over rows.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import verbs
from benchmarks.tuned import foreign, foreign_loss, logits, nats
from llm_jax.core import tree
from llm_jax.data.features import Fields
from llm_jax.interop import save
from llm_jax.run import build, evaluate
from llm_jax.run.exchange.exported import described
from llm_jax.run.judge.kinds import evaluator
from llm_jax.run.open_run import open_run


def main() -> int:
    """Train on both sides and print a line a student."""
    parser = argparse.ArgumentParser(prog="benchmarks.soft")
    parser.add_argument("--config", default=str(Path(__file__).parents[1] / "configs/soft.py"))
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--foreign", type=int, default=1, help="so many seeds in torch too")
    given, more = parser.parse_known_args()
    for seed in range(given.seeds):
        for kind in ("soft", "text"):
            workdir = f"{given.workdir}-{kind}-{seed}"
            verbs.run(
                "train", f"--config={given.config}:{kind}", f"--workdir={workdir}", f"--config.seed={seed}", *more
            )
            compare(f"{kind}, seed {seed}", workdir, abroad=seed < given.foreign)
    return 0


def compare(name: str, workdir: str, *, abroad: bool) -> None:
    """Print what the student of a workdir came to, and what torch comes to."""
    run = open_run(workdir)
    values = run.resolved.values
    built = build.build(run.resolved, words=run.tokenizer, template=run.template)
    held_out, rows = built.data.validation, values["eval"]["batch_size"] or values["data"]["batch_size"]
    assert held_out is not None
    judge = evaluator(run.model, run.objective, values["train"]["learner"])
    loss = evaluate.held_out(judge, run.params(), held_out, rows)["loss"]
    print(f"{name}: llm_jax {loss.value:.4f} ± {loss.error:.4f} nats/token of {loss.count:.0f}", flush=True)
    if not abroad:
        return
    batches, steps = built.data.train.batch, range(run.steps[-1])
    teach = nats if values["objective"]["name"] == "causal" else partial(taught, alpha=values["objective"]["alpha"])
    with tempfile.TemporaryDirectory() as folder:
        what = described(values, run.model, run.workdir, "float32", None)
        first = tree.flatten(built.learner.init(jax.random.key(values["seed"])).params)
        save.hf(Path(folder), what, ((path, np.asarray(first[path])) for path in what.paths()))
        rates = [float(built.rate(step)) for step in steps]
        model, seconds = foreign(folder, values, map(batches, steps), rates, teach)
    theirs = foreign_loss(model, held_out.once(rows))
    ours = built.tokens_per_step / run.metrics["tokens_per_second"].mean()
    print(f"{name}: transformers {theirs:.4f} nats/token; seconds a step: llm_jax {ours:.2f}, torch {seconds:.2f}")


def taught(model: Any, batch: Fields, alpha: float) -> tuple[Any, Any]:
    """Return the weighted sum of (1 - alpha) · -log p + alpha · KL of a batch's targets, and of its weights."""
    import torch
    from torch.nn import functional

    names = ("targets", "weights", "teacher_tokens", "teacher_log_probs")
    targets, weights, ids, told = (torch.from_numpy(np.asarray(batch[name])) for name in names)
    log_q, known = logits(model, batch).log_softmax(-1), ids >= 0
    nll = -log_q.gather(-1, targets.long()[..., None])[..., 0]
    few = (known * told.exp(), known * log_q.gather(-1, ids.clamp(min=0).long()).exp())
    p, q = (torch.cat([x, (1 - x.sum(-1, keepdim=True)).clamp(min=0)], -1) for x in few)
    apart = functional.kl_div(q.clamp(min=1e-30).log(), p, reduction="none").sum(-1)
    return ((nll + alpha * known.any(-1) * (apart - nll)) * weights).sum(), weights.sum()


if __name__ == "__main__":
    sys.exit(main())
