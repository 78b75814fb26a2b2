"""Evaluation and samples of a run, during training and from a workdir."""

from collections.abc import Callable
from typing import Any

import jax

from llm_jax.adapt.adapted import merged
from llm_jax.core.types import Model, Params
from llm_jax.data.loader import Loader
from llm_jax.evals.perplexity import Estimate, perplexity, row_sums
from llm_jax.mesh import hosts
from llm_jax.run.build import Run
from llm_jax.run.generate import continuations
from llm_jax.store.workdir import Workdir


def evaluator(model: Model) -> Callable[..., Any]:
    """Return the compiled (params, batch) -> [B,3] sums of `evals.perplexity`."""
    return jax.jit(lambda params, batch: row_sums(model, params, batch))


def held_out(
    sums: Callable[..., Any], params: Params, loader: Loader, rows: int, limit: int | None = None
) -> dict[str, Estimate]:
    """Return the estimates of parameters on a loader's rows, `rows` at a time, over at most `limit` batches."""
    batches = loader.once(rows, *hosts.share(rows), limit)
    return perplexity(lambda batch: hosts.whole(sums(params, hosts.to_devices(batch, rows))), batches)


def told(found: dict[str, Estimate]) -> str:
    """Return the estimates as one line."""
    units = {"loss": "nats/token", "perplexity": "", "bits_per_byte": "bits/byte"}
    return "  ".join(
        f"{n.replace('_', ' ')} {e.value:.4f} ± {e.error:.4f} {units[n]}".rstrip() for n, e in found.items()
    )


def write_samples(run: Run, workdir: Workdir, step: int, params: Params, say: Callable[[str], None]) -> None:
    """Continue the run's prompts and keep the texts in samples/STEP.txt."""
    if not run.sections.sample.prompts:
        return
    model, params = merged(run.model, params)
    texts = continuations(model, params, run.tokenizer, run.sections.sample, seed=run.config.values["seed"])
    if hosts.is_first():
        workdir.samples.mkdir(parents=True, exist_ok=True)
        (workdir.samples / f"{step}.txt").write_text("\n\n---\n\n".join(texts) + "\n")
        say("\n".join(["", *texts, ""]))
