"""A number of whole texts: the squared error."""

from dataclasses import dataclass

import jax.numpy as jnp

from llm_jax.core import checks
from llm_jax.core.types import Batch, Key, Mean, Model, Params, Stats
from llm_jax.objectives.labelled import heads


@dataclass(frozen=True)
class Regression:
    """The section `objective`; pooling, dropout and bias are those of `classification`."""

    pooling: str | None = None
    dropout: float = 0.0
    bias: bool = True
    judged = "regression"
    reads = ("tokens", "label")

    def __post_init__(self) -> None:
        checks.fraction("objective", dropout=self.dropout)

    @property
    def head(self) -> heads.Head:
        """What is asked of a model."""
        return heads.Head(False, self.pooling, self.dropout, self.bias)

    def __call__(self, model: Model, params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Stats]:
        """Return the loss to descend and `loss`, the mean squared error.

        Raises:
            UserError: rows have no labels, or the model no head for them.
        """
        outputs = model.apply(params, batch, key=key)
        scores, (label, weights) = heads.scores(outputs), heads.of_texts(batch, jnp.float32)
        loss = Mean((jnp.square(scores[:, 0] - label) * weights).sum(), weights.sum())
        return outputs.added(loss, {"loss": loss})
