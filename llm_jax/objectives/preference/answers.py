"""How probable the two answers of each row are, of which the first is preferred."""

from typing import NamedTuple

import jax.numpy as jnp

from llm_jax.core.table import UserError, lookup
from llm_jax.core.targets import row_weights, targets_and_weights
from llm_jax.core.types import Array, Batch, Key, Mean, Model, Outputs, Params, Stats
from llm_jax.kernels import CROSS_ENTROPY

READS = ("tokens", "rejected_tokens")
READ = ("tokens", "segments", "positions")  # by a model
PAIRED = (*READ, "targets", "weights")


class Answers(NamedTuple):
    """log p of the answer in nats, given the prompt, and its number of tokens; each [B]."""

    log_prob: Array
    length: Array

    @property
    def mean(self) -> Array:
        """log p a token."""
        return self.log_prob / jnp.maximum(self.length, 1)


class Pair(NamedTuple):
    """Both answers of the rows, what a row counts, float32 [B], and what the model made of them."""

    chosen: Answers
    rejected: Answers
    rows: Array
    outputs: Outputs

    def loss(self, each: Array, **stats: Array) -> tuple[Mean, Stats]:
        """Return the loss of rows [B] and the statistics of all preferences, in nats a row."""
        weight = self.rows.sum()

        def mean(values: Array) -> Mean:
            return Mean((values * self.rows).sum(), weight)

        loss = mean(each)
        told = {"loss": loss, "chosen": mean(self.chosen.log_prob), "rejected": mean(self.rejected.log_prob)}
        told |= {name: mean(values) for name, values in stats.items()}
        return self.outputs.added(loss, told)


def answers(model: Model, params: Params, batch: Batch, key: Key | None) -> Pair:
    """Return both answers of each row, from one pass over twice as many rows.

    Tokens with a weight are the answer's; a row counts as much as those of its chosen answer weigh in the mean.

    Raises:
        UserError: rows have no second answer.
    """
    if "rejected_tokens" not in batch:
        raise UserError('these rows have no rejected answers; they are made by data.form={"name": "preferences"}')
    sides = [{name: batch[p + name] for name in PAIRED if p + name in batch} for p in ("", "rejected_")]
    if any("segments" in side for side in sides):
        sides = [{"segments": jnp.ones_like(side["tokens"]), **side} for side in sides]
    both = {name: jnp.concatenate([side[name] for side in sides]) for name in sides[0] if name in READ}
    outputs = model.apply(params, both, key=key)
    known = zip(*map(targets_and_weights, sides), strict=True)
    targets, weights = (jnp.concatenate(values) for values in known)
    token = lookup(CROSS_ENTROPY, "chunked", "cross_entropy")(outputs.head, outputs.hidden, targets)
    told = (weights > 0).astype(jnp.float32)
    log_prob, length = -(token.nll * told).sum(-1), told.sum(-1)
    chosen, rejected = (Answers(*pair) for pair in zip(jnp.split(log_prob, 2), jnp.split(length, 2), strict=True))
    return Pair(chosen, rejected, jnp.split(row_weights(weights), 2)[0], outputs)


def better(margin: Array) -> Array:
    """Return 1 where the preferred answer is ahead, 1/2 where neither is, float32 [B]."""
    return (jnp.sign(margin) + 1) / 2
