"""Spans of a passage that answer a question: the cross-entropy of where they begin and where they end."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from llm_jax.core import checks
from llm_jax.core.table import UserError
from llm_jax.core.targets import row_weights
from llm_jax.core.types import Array, Batch, Key, Mean, Model, Params, Stats
from llm_jax.objectives.labelled import heads

NEVER = -1e9  # the score of a token that no answer is made of


@dataclass(frozen=True)
class Spans:
    """The section `objective`: Devlin et al. 2019, §4.2; without an answer both ends are token 0 (§4.3).

    A model that reads from left to right sees the question before the passage, and of the passage what came before.

    dropout: of the states that the head reads.
    """

    dropout: float = 0.0
    judged = "spans"
    reads = ("tokens", "spans")

    def __post_init__(self) -> None:
        checks.fraction("objective", dropout=self.dropout)

    @property
    def head(self) -> heads.Head:
        """What is asked of a model."""
        return heads.Head(True, "tokens", self.dropout)

    def __call__(self, model: Model, params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Stats]:
        """Return the loss to descend, the mean of both ends' nats a question, and `exact`: how often both are right.

        Raises:
            UserError: rows have no spans, or the model no head for them.
        """
        outputs = model.apply(params, batch, key=key)
        scores, (spans, weights) = ends(heads.scores(outputs), batch), of_rows(batch)
        loss = Mean((nats(scores, spans) * weights).sum(), weights.sum())
        exact = Mean((jnp.all(scores.argmax(1) == spans, axis=-1) * weights).sum(), weights.sum())
        stats = {"loss": loss, "exact": exact}
        return outputs.added(loss, stats)


def of_rows(batch: Batch) -> tuple[Array, Array]:
    """Return the first and last token of each answer, int32 [B,2], and the weight of each row [B].

    Raises:
        UserError: rows have no spans.
    """
    if "spans" not in batch:
        raise UserError('rows have no `spans`; data.form={"name": "passages"} makes them')
    return jnp.asarray(batch["spans"], jnp.int32), row_weights(heads.token_weights(batch))


def ends(scores: Array, batch: Batch) -> Array:
    """Return scores [B,T,2] of being the first and the last token of the answer, `NEVER` where none can be."""
    return jnp.where(heads.token_weights(batch)[..., None] > 0, scores, NEVER)


def nats(scores: Array, spans: Array) -> Array:
    """Return the mean of -log p of both ends, float32 [B]."""
    log_p = jax.nn.log_softmax(scores, axis=1)
    return -jnp.take_along_axis(log_p, spans[:, None], axis=1)[:, 0].mean(-1)


def best(scores: Array, most: int) -> Array:
    """Return the span int32 [B,2] of at most so many tokens whose ends have the highest sum; (0, 0) is no answer."""
    T = scores.shape[1]
    at = jnp.arange(T)
    apart = at[None, :] - at[:, None]
    allowed = (apart >= 0) & (apart < most) & ((at[:, None] > 0) | (at[None, :] == 0))
    both = jnp.where(allowed, scores[:, :, None, 0] + scores[:, None, :, 1], 2 * NEVER)
    flat = both.reshape(len(scores), -1).argmax(-1)
    return jnp.stack([flat // T, flat % T], axis=-1)
