"""What an objective on labels asks of a model beside its own outputs, and how it reads them."""

from typing import NamedTuple

import jax.numpy as jnp

from llm_jax.core.table import UserError
from llm_jax.core.targets import row_weights, targets_and_weights
from llm_jax.core.types import Array, Batch, Outputs


class Head(NamedTuple):
    """A map of states, linear, or with a `bias`. classes: one score for each label of the data, else one.

    See `adapt.headed.Headed`.
    """

    classes: bool
    pooling: str | None
    dropout: float
    bias: bool = True


def scores(outputs: Outputs) -> Array:
    """Return what the head made of a batch, float32 [B,C], or [B,T,C] of tokens.

    Raises:
        UserError: the model has no such head.
    """
    if "scores" not in outputs.extras:
        raise UserError("this model has no head for labels; a run's model is given one by its objective")
    return outputs.extras["scores"]


def of_texts(batch: Batch, dtype: jnp.dtype) -> tuple[Array, Array]:
    """Return the label of each row and its weight, [B] each: the mean weight of those of its tokens that have any.

    Raises:
        UserError: rows have no labels.
    """
    if "label" not in batch:
        raise UserError('rows have no `label`; data.form={"name": "labelled", …} says where it stands')
    return jnp.asarray(batch["label"], dtype), row_weights(token_weights(batch))


def of_tokens(batch: Batch) -> tuple[Array, Array]:
    """Return the tag of each token, int32 [B,T], and its weight, float32 [B,T].

    Raises:
        UserError: tokens have no tags.
    """
    if "tags" not in batch:
        raise UserError('rows have no `tags`; data.form={"name": "tagged", …} says where they stand')
    return jnp.asarray(batch["tags"], jnp.int32), token_weights(batch)


def token_weights(batch: Batch) -> Array:
    """Return the weight of each token, its own target, float32 [B,T]: none is lost for having no next one."""
    return targets_and_weights({"targets": batch["tokens"], **batch})[1]
