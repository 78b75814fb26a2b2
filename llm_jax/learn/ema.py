"""An exponential moving average of the parameters (Polyak & Juditsky 1992), kept in `State.extra["ema"]`."""

from dataclasses import replace

import jax
import jax.numpy as jnp

from llm_jax.core.types import Batch, Key, Learner, Params, State, Stats


def ema(learner: Learner, decay: float) -> Learner:
    """Return the learner that also averages parameters: average ← d · average + (1 - d) · params.

    What does not change is its own average, to the last bit. Early on d is min(decay, (1 + step) / (10 + step)), so
    that the average does not remember the initial values.
    """

    def init(key: Key) -> State:
        state = learner.init(key)
        return replace(state, extra={**state.extra, "ema": jax.tree.map(jnp.copy, state.params)})

    def update(state: State, batch: Batch) -> tuple[State, Stats]:
        new, stats = learner.update(state, batch)
        step = new.step.astype(jnp.float32)
        d = jnp.minimum(decay, (1 + step) / (10 + step))
        average = jax.tree.map(lambda a, p: (a + (1 - d) * (p - a)).astype(a.dtype), state.extra["ema"], new.params)
        return replace(new, extra={**new.extra, "ema": average}), stats

    return learner._replace(init=init, update=update)


def averaged(state: State) -> Params:
    """Return the averaged parameters where the learner keeps them, else the parameters."""
    return state.extra.get("ema", state.params)
