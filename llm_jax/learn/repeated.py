"""Several updates by one batch, as policies learn from texts that were dear to write (Schulman et al. 2017, PPO)."""

from dataclasses import replace

import jax

from llm_jax.core.types import Batch, Learner, State, Stats


def repeated(learner: Learner, times: int) -> Learner:
    """Return the learner whose step is `times` updates by the same batch; statistics are of them all.

    The state's step counts batches; each update has a step of its own in the optimizer, and in the keys of dropout.
    """

    def update(state: State, batch: Batch) -> tuple[State, Stats]:
        def one(now: State, i: jax.Array) -> tuple[State, Stats]:
            new, stats = learner.update(replace(now, step=state.step * times + i), batch)
            return new, stats

        new, each = jax.lax.scan(one, state, jax.numpy.arange(times, dtype=state.step.dtype))
        return replace(new, step=state.step + 1), jax.tree.map(lambda x: x.sum(0), each)

    return learner._replace(update=update)
