"""The pseudo-likelihood of an encoder (Salazar et al. 2020): each token in turn is hidden and told from all others.

The sum of log p(token | all others) is no likelihood of the text: it does not add up to one over texts, and each token
is told with what follows it too, so that it lies above what a model from left to right can reach.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core.table import UserError
from llm_jax.core.targets import targets_and_weights
from llm_jax.core.types import Array, Batch, Embeds, Model, Params
from llm_jax.evals.perplexity import beside_counts

GROUP = 8  # copies of a batch that are read at once, each with another token hidden


def row_sums(model: Model, params: Params, batch: Batch, mask: int, group: int = GROUP) -> Array:
    """Return float32 [B,3] as `evals.perplexity.row_sums`: nats of the pseudo-likelihood, tokens, bytes.

    The text of a row is its `targets` that carry weight, each document by itself.

    Args:
        model: an encoder with a head of masked tokens.
        params: its parameters.
        batch: rows of a text as they are packed, nothing hidden.
        mask: the id that hides a token.
        group: tokens that are hidden at once, each in a copy of the batch; it changes memory, not the result.

    Raises:
        UserError: the model is no encoder, or has no head.
    """
    if not isinstance(model, Embeds):
        raise UserError(
            f"model.name={type(model).__name__.lower()!r} is no encoder, whose pseudo-likelihood this is; "
            "evaluate it without --pseudo"
        )
    ids, weights = targets_and_weights(batch)
    real = weights > 0
    segments = jnp.where(real, jnp.asarray(batch.get("segments", jnp.ones_like(ids)), jnp.int32), 0)
    B, T = ids.shape
    each = jnp.arange(-(-T // group) * group).reshape(-1, group) % T  # the last group begins anew, and is cut below

    def hidden_at(places: Array) -> Array:
        at = jax.nn.one_hot(places, T, dtype=bool)[:, None]  # [G,1,T]
        copies = jnp.where(at, mask, ids).reshape(group * B, T)
        out = model.apply(params, {"tokens": copies, "segments": jnp.tile(segments, (group, 1))})
        states = out.hidden.reshape(group, B, T, -1)
        chosen = jnp.take_along_axis(states, places[:, None, None, None], axis=2)  # [G,B,1,D]
        scores = out.head(chosen.reshape(group * B, 1, -1))
        right = ids[:, places].T.reshape(group * B, 1, 1)
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(scores), right, axis=-1)
        return -log_prob.reshape(group, B)

    nll = jax.lax.map(hidden_at, each).reshape(-1, B)[:T].T
    return beside_counts((nll * weights).sum(1), batch)


def evaluator(model: Model, mask: int) -> Callable[[Params, Batch], Any]:
    """Return the compiled (params, batch) -> [B,3] sums."""
    return jax.jit(partial(_sums, model, mask))


def _sums(model: Model, mask: int, params: Params, batch: Batch) -> Array:
    return row_sums(model, params, batch, mask)
