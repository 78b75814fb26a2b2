"""Expectation maximization (Dempster, Laird & Rubin 1977): sums over some batches, then the parameters they ask for."""

from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core import keys
from llm_jax.core.table import UserError
from llm_jax.core.types import Batch, Key, Learner, Model, State, Stats


def em(model: Model, objective: Any, optimizer: Any, *, microbatches: int, batch_size: int) -> Learner:
    """Return the learner of a model with `expectations`, `maximize` and `every`, the batches of one M-step.

    Its loss is that of the parameters before the batch. Expected counts wait in State.extra["em"].

    Raises:
        UserError: the model has no expectations.
    """
    if not hasattr(model, "expectations"):
        raise UserError('train.learner="em" needs a model of hidden states, such as model.name="hmm"')
    taught: Any = model

    def init(key: Key) -> State:
        params = model.init(keys.fold(key, "params"))
        return State(jnp.int32(0), params, (), key, {"em": jax.tree.map(jnp.zeros_like, params)})

    def update(state: State, batch: Batch) -> tuple[State, Stats]:
        sums, loss = taught.expectations(state.params, batch)
        sums = jax.tree.map(jnp.add, state.extra["em"], sums)
        step = state.step + 1
        due = step % taught.every == 0
        params = jax.tree.map(lambda new, old: jnp.where(due, new, old), taught.maximize(sums), state.params)
        kept = jax.tree.map(lambda s: jnp.where(due, 0, s), sums)
        return State(step, params, (), state.key, {"em": kept}), {"loss": loss}

    return Learner(init, update)
