"""Judging preferences: how often a model finds the preferred answer more probable, alone or beside its reference."""

from collections.abc import Callable, Iterable

import jax.numpy as jnp
import numpy as np

from llm_jax.core.types import Array, Batch, Model, Params
from llm_jax.evals.perplexity import Estimate, ratio
from llm_jax.objectives.preference.answers import answers
from llm_jax.objectives.preference.referred import gains

RANKS = ("accuracy", "accuracy_per_token", "accuracy_of_gains", "margin")


def rows(model: Model, params: Params, batch: Batch) -> Array:
    """Return float32 [B,1,5]: is there a row, and log p and tokens of the chosen answer and of the rejected one.

    Of batches with a reference [B,1,7]: also by how much log p of the two is above that of the reference.
    """
    pair = answers(model, params, batch, None)
    columns = [pair.rows, *pair.chosen, *pair.rejected]
    if "reference_chosen" in batch:
        columns += gains(pair, batch)
    return jnp.stack(columns, axis=-1).astype(jnp.float32)[:, None]


def ranking(sums: Callable[[Batch], Array], batches: Iterable[Batch]) -> dict[str, Estimate]:
    """Return `loss` (nats a token of the chosen answers), and how often these are ahead.

    `accuracy` is by log p of the answers, `accuracy_per_token` by log p a token (Meng et al. 2024, §2.2), and where
    there is a reference `accuracy_of_gains` by log(p / p_ref), of which `margin` is the mean difference in nats: what
    was learnt, however long or usual an answer is. An equal one counts half.

    Args:
        sums: batch -> [B,1,5 or 7], `rows` with model and parameters bound, jitted.
        batches: every row once; padding has no tokens.
    """
    found = np.concatenate([np.asarray(sums(batch), np.float64)[:, 0] for batch in batches])
    found = found[found[:, 0] > 0]
    _, chosen, tokens, rejected, others, *gained = found.T
    ones = np.ones(len(found))
    result = {
        "loss": ratio(-chosen, tokens),
        "accuracy": ratio((np.sign(chosen - rejected) + 1) / 2, ones),
        "accuracy_per_token": ratio((np.sign(chosen / tokens - rejected / others) + 1) / 2, ones),
    }
    if gained:
        ahead = gained[0] - gained[1]
        result |= {"accuracy_of_gains": ratio((np.sign(ahead) + 1) / 2, ones), "margin": ratio(ahead, ones)}
    return result
