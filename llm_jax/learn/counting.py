"""Learning by counting: each batch is counted once, in one pass over the text; no objective and no optimizer."""

from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core import keys
from llm_jax.core.table import UserError
from llm_jax.core.types import Batch, Counts, Key, Learner, Mean, Model, Params, State, Stats

ADVICE = {
    "distinct": "more distinct n-grams came than model.capacity has room for: raise it, or lower model.order, in a new "
    "workdir"
}


def ready(model: Model, params: Params) -> Params:
    """Return the parameters as predictions need them: of a model that counts, with all that follows from its counts."""
    return jax.jit(model.ready)(params) if isinstance(model, Counts) else params


def counting(model: Model, objective: Any, optimizer: Any, *, microbatches: int, batch_size: int) -> Learner:
    """Return the learner that counts; its statistic `distinct` is what the tables hold.

    Raises:
        UserError: the model does not count.
    """
    if not isinstance(model, Counts):
        raise UserError('train.learner="counting" needs a model that counts, such as model.name="ngram"')

    def init(key: Key) -> State:
        return State(jnp.int32(0), model.init(keys.fold(key, "params")), (), key, {})

    def update(state: State, batch: Batch) -> tuple[State, Stats]:
        params = model.count(state.params, batch)
        found = jnp.where(params["distinct"] > model.capacity, jnp.nan, params["distinct"].astype(jnp.float32))
        return State(state.step + 1, params, (), state.key, {}), {"distinct": Mean(found, jnp.float32(1))}

    return Learner(init, update, ADVICE)
