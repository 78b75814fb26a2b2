"""A new state that begins from given parameters: every copy that a learner keeps of them begins there too."""

from dataclasses import replace

import jax
import jax.numpy as jnp

from llm_jax.core.types import Params, State


def begun(state: State, params: Params) -> State:
    """Return the state with `params` as its parameters, their average, and those of all workers."""
    extra = dict(state.extra)
    if "ema" in extra:
        extra["ema"] = jax.tree.map(jnp.copy, params)
    if "workers" in extra:
        crowd = extra["workers"]
        spread = jax.jit(
            lambda old, new: jax.tree.map(lambda a, x: jnp.broadcast_to(x, a.shape), old, new),
            out_shardings=jax.tree.map(lambda x: x.sharding, crowd.params),
        )
        extra["workers"] = replace(crowd, params=spread(crowd.params, params))
    return replace(state, params=params, extra=extra)
