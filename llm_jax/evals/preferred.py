"""Judging preferences by a model alone: how often it finds the preferred answer the more probable one."""

from collections.abc import Callable, Iterable

import jax.numpy as jnp
import numpy as np

from llm_jax.core.types import Array, Batch, Model, Params
from llm_jax.evals.perplexity import Estimate, ratio
from llm_jax.objectives.preference.answers import answers


def rows(model: Model, params: Params, batch: Batch) -> Array:
    """Return float32 [B,1,5]: is there a row, and log p and tokens of the chosen answer and of the rejected one."""
    pair = answers(model, params, batch, None)
    columns = [pair.rows, *pair.chosen, *pair.rejected]
    return jnp.stack(columns, axis=-1).astype(jnp.float32)[:, None]


def ranking(sums: Callable[[Batch], Array], batches: Iterable[Batch]) -> dict[str, Estimate]:
    """Return `loss` (nats a token of the chosen answers), and how often these are ahead, which needs no reference.

    `accuracy` is by log p of the answers, `accuracy_per_token` by log p a token (Meng et al. 2024, §2.2); an equal one
    counts half.

    Args:
        sums: batch -> [B,1,5], `rows` with model and parameters bound, jitted.
        batches: every row once; padding has no tokens.
    """
    found = np.concatenate([np.asarray(sums(batch), np.float64)[:, 0] for batch in batches])
    found = found[found[:, 0] > 0]
    _, chosen, tokens, rejected, others = found.T
    ones = np.ones(len(found))
    return {
        "loss": ratio(-chosen, tokens),
        "accuracy": ratio((np.sign(chosen - rejected) + 1) / 2, ones),
        "accuracy_per_token": ratio((np.sign(chosen / tokens - rejected / others) + 1) / 2, ones),
    }
