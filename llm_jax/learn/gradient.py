"""Learning by gradient descent: a rule that makes gradients, and the learner that feeds them to optax.

Gradients are sums until the last moment, like losses: a rule returns Mean(sum of gradients, sum of weights), so that
microbatches with unequal numbers of tokens add up to exactly the whole batch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from llm_jax.core import keys
from llm_jax.core.table import UserError
from llm_jax.core.types import Adapted, Batch, GradientRule, Key, Learner, Mean, Model, Objective, Params, State, Stats
from llm_jax.learn.accumulate import accumulate
from llm_jax.mesh.place import fetched
from llm_jax.optim.transform import global_norm


def plain(model: Model, objective: Objective) -> GradientRule:
    """Return the rule that differentiates the objective over the whole batch at once.

    Of an adapted model the gradients are those of the parts that are learnt, and no others are computed.
    """

    def rule(params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Mean, Stats]:
        def total(p: Params) -> tuple[Any, tuple[Mean, Stats]]:
            loss, stats = objective(model, params | p, batch, key)
            return loss.total, (loss, stats)

        (_, (loss, stats)), gradients = jax.value_and_grad(total, has_aux=True)(learnt(model, params))
        return Mean(gradients, loss.weight), loss, stats

    return rule


def learnt(model: Model, params: Params) -> Params:
    """Return the parameters that are learnt: all, but of an adapted model."""
    return {name: params[name] for name in model.learnt} if isinstance(model, Adapted) else params


def check_real(model: Model) -> None:
    """Refuse a model that has no gradient."""
    names = model.learnt if isinstance(model, Adapted) else None
    for path, d in model.declarations().items():
        if (names is None or path.partition("/")[0] in names) and not jnp.issubdtype(d.dtype, jnp.floating):
            raise UserError(
                f'train.learner="gradient" learns real numbers, and {path} of model.name='
                f'{type(model).__name__.lower()!r} is {d.dtype}; a model that counts needs train.learner="counting"'
            )


def descent(
    model: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    microbatches: int = 1,
    batch_size: int | None = None,
) -> Learner:
    """Return the learner of a model and an objective, each batch computed in so many parts.

    Raises:
        UserError: a parameter that is to be learnt is no real number.
    """
    check_real(model)
    rule = accumulate(plain(model, objective), microbatches)
    return gradient(rule, model.init, optimizer, part=partial(learnt, model))


def gradient(
    rule: GradientRule,
    init: Callable[[Key], Params],
    optimizer: optax.GradientTransformation,
    *,
    seed_key: str = "dropout",
    part: Callable[[Params], Params] = lambda params: params,
) -> Learner:
    """Return the learner that descends the gradients of `rule` with `optimizer`.

    Args:
        rule: (params, batch, key) -> (gradients, loss, statistics).
        init: key -> initial parameters.
        optimizer: what turns mean gradients into updates, rate and decay included.
        seed_key: the name under which each step's key is folded.
        part: parameters -> those that are learnt, of which the rule's gradients are; see `learnt`.
    """

    def start(key: Key) -> State:
        return begun(key, init, optimizer, part)

    def update(state: State, batch: Batch) -> tuple[State, Stats]:
        summed, loss, stats = rule(state.params, batch, keys.fold(state.key, seed_key, state.step))
        return descended(state, summed, optimizer, stats | {"objective": loss}, part)

    return Learner(start, update)


def begun(
    key: Key,
    init: Callable[[Key], Params],
    optimizer: optax.GradientTransformation,
    part: Callable[[Params], Params] = lambda p: p,
) -> State:
    """Return the first state of parameters of which `optimizer` changes a `part`."""
    params = init(keys.fold(key, "params"))
    return State(jnp.int32(0), params, optimizer.init(part(params)), key, {})


def descended(
    state: State,
    summed: Mean,
    optimizer: optax.GradientTransformation,
    stats: Stats,
    part: Callable[[Params], Params] = lambda p: p,
) -> tuple[State, Stats]:
    """Return the state after one step along the mean of summed gradients, and their norm among the statistics."""
    with jax.named_scope("optimizer"):
        gradients = summed.value
        old = part(state.params)
        updates, opt = optimizer.update(gradients, fetched(state.opt), old)
        params = state.params | optax.apply_updates(old, updates)
    stats = stats | {"gradient_norm": Mean(global_norm(gradients), jnp.float32(1))}
    return State(state.step + 1, params, opt, state.key, state.extra), stats
