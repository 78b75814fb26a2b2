"""Learning by gradient descent: a rule that makes gradients, and the learner that feeds them to optax.

Gradients are sums until the last moment, like losses: a rule returns Mean(sum of gradients, sum of weights), so that
microbatches with unequal numbers of tokens add up to exactly the whole batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from llm_jax.core import keys
from llm_jax.core.types import Batch, GradientRule, Key, Learner, Mean, Model, Objective, Params, State, Stats
from llm_jax.learn.accumulate import accumulate
from llm_jax.mesh.place import fetched
from llm_jax.optim.transform import global_norm


def plain(model: Model, objective: Objective) -> GradientRule:
    """Return the rule that differentiates the objective over the whole batch at once."""

    def rule(params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Mean, Stats]:
        def total(p: Params) -> tuple[Any, tuple[Mean, Stats]]:
            loss, stats = objective(model, p, batch, key)
            return loss.total, (loss, stats)

        (_, (loss, stats)), gradients = jax.value_and_grad(total, has_aux=True)(params)
        return Mean(gradients, loss.weight), loss, stats

    return rule


def descent(
    model: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    microbatches: int = 1,
    batch_size: int | None = None,
) -> Learner:
    """Return the learner of a model and an objective, each batch computed in so many parts."""
    return gradient(accumulate(plain(model, objective), microbatches), model.init, optimizer)


def gradient(
    rule: GradientRule,
    init: Callable[[Key], Params],
    optimizer: optax.GradientTransformation,
    *,
    seed_key: str = "dropout",
) -> Learner:
    """Return the learner that descends the gradients of `rule` with `optimizer`.

    Args:
        rule: (params, batch, key) -> (gradients, loss, statistics).
        init: key -> initial parameters.
        optimizer: what turns mean gradients into updates, rate and decay included.
        seed_key: the name under which each step's key is folded.
    """

    def start(key: Key) -> State:
        return begun(key, init, optimizer)

    def update(state: State, batch: Batch) -> tuple[State, Stats]:
        summed, loss, stats = rule(state.params, batch, keys.fold(state.key, seed_key, state.step))
        return descended(state, summed, optimizer, stats | {"objective": loss})

    return Learner(start, update)


def begun(key: Key, init: Callable[[Key], Params], optimizer: optax.GradientTransformation) -> State:
    """Return the first state of parameters that `optimizer` changes."""
    params = init(keys.fold(key, "params"))
    return State(jnp.int32(0), params, optimizer.init(params), key, {})


def descended(state: State, summed: Mean, optimizer: optax.GradientTransformation, stats: Stats) -> tuple[State, Stats]:
    """Return the state after one step along the mean of summed gradients, and their norm among the statistics."""
    with jax.named_scope("optimizer"):
        kept, gradients = fetched(state.opt, summed.value)
        updates, opt = optimizer.update(gradients, kept, state.params)
        params = optax.apply_updates(state.params, updates)
    stats = stats | {"gradient_norm": Mean(global_norm(gradients), jnp.float32(1))}
    return State(state.step + 1, params, opt, state.key, state.extra), stats
