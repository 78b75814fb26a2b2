"""The held-out losses of a generator and a discriminator, each with its count and standard error; no likelihood."""

from collections.abc import Callable, Iterable
from functools import partial

import jax.numpy as jnp
import numpy as np

from llm_jax.core.types import Adversaries, Array, Batch, Params
from llm_jax.evals.perplexity import Estimate, ratio
from llm_jax.objectives.adversarial import Adversarial

COLUMNS = ("generator", "discriminator", "fooled")


def row_sums(model: Adversaries, params: Params, batch: Batch) -> Array:
    """Return float32 [B,4]: of each row `COLUMNS`, and 1 where it has text; each row's fake follows from the row."""
    found = Adversarial().rows(model, params, batch, None)
    real = (found.weight > 0).astype(jnp.float32)
    return jnp.stack([*(getattr(found, name) * real for name in COLUMNS), real], axis=1)


def losses(sums: Callable[[Batch], Array], batches: Iterable[Batch]) -> dict[str, Estimate]:
    """Return `loss` (of both players), `generator` and `discriminator` in nats a row, and the share `fooled`.

    Args:
        sums: batch -> [B,4], `row_sums` with model and parameters bound, jitted.
        batches: every row once; padding has weight 0.
    """
    rows = np.concatenate([np.asarray(sums(batch), np.float64) for batch in batches])
    rows = rows[rows[:, -1] > 0]
    mean = partial(ratio, under=rows[:, -1])
    return {"loss": mean(rows[:, 0] + rows[:, 1])} | {name: mean(rows[:, i]) for i, name in enumerate(COLUMNS)}
