"""Truncated backpropagation through time (Williams & Peng 1990): rows go on where those of the last batch ended.

What a model keeps of a text passes from batch to batch in `State.extra["carried"]`, gradients stop at the batch. Data
must be packed so that rows go on (`data.packing=contiguous`); a row whose first position is 0 begins anew.
Held-out text is judged so, too (`evals.perplexity.carried_sums`).
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from llm_jax.core import keys
from llm_jax.core.table import UserError
from llm_jax.core.types import Batch, Carries, Key, Learner, Mean, Model, Objective, Outputs, Params, State, Stats
from llm_jax.learn.gradient import begun, descended

NAME = "carried"


@dataclass(frozen=True)
class Read:
    """A model of which the outputs for the batch are known: what an objective sees of one that carries its state."""

    model: Model
    outputs: Outputs

    def declarations(self) -> Any:
        """Those of the model."""
        return self.model.declarations()

    def init(self, key: Key) -> Params:
        """Those of the model."""
        return self.model.init(key)

    def apply(self, params: Params, batch: Batch, *, key: Key | None = None) -> Outputs:
        """The known outputs."""
        return self.outputs


def carried(
    model: Model, objective: Objective, optimizer: optax.GradientTransformation, *, microbatches: int, batch_size: int
) -> Learner:
    """Return the learner whose model carries its state from each batch of `batch_size` rows to the next.

    Raises:
        UserError: the model has no state to carry, or a batch would be computed in parts.
    """
    if not isinstance(model, Carries):
        raise UserError('train.learner="carried" needs a recurrent model, such as model.name="lstm", "gru" or "mamba2"')
    if microbatches != 1:
        raise UserError(f'train.microbatches={microbatches}: train.learner="carried" computes a batch at once; set 1')

    def init(key: Key) -> State:
        return replace(begun(key, model.init, optimizer), extra={NAME: model.empty_cache(batch_size, 1)})

    def update(state: State, batch: Batch) -> tuple[State, Stats]:
        key, past = keys.fold(state.key, "dropout", state.step), state.extra[NAME]
        if "positions" in batch:
            past = past.forget(jnp.asarray(batch["positions"])[:, 0] == 0)

        def total(params: Params) -> tuple[Any, tuple[Mean, Stats, Any]]:
            outputs, after = model.carry(params, batch, past, key)
            loss, stats = objective(Read(model, outputs), params, batch, key)
            return loss.total, (loss, stats, after)

        (_, (loss, stats, after)), gradients = jax.value_and_grad(total, has_aux=True)(state.params)
        new, stats = descended(state, Mean(gradients, loss.weight), optimizer, stats | {"objective": loss})
        return replace(new, extra={**new.extra, NAME: after}), stats

    return Learner(init, update)
