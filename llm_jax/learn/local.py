"""Workers that learn apart and meet now and then: local SGD, DiLoCo, Streaming DiLoCo, rounds of federated learning.

Each of W workers has parameters and an inner optimizer of its own, and a share of every batch. Every H steps the outer
gradient, old parameters less the workers' mean, goes through an outer optimizer, and the workers start again from what
it makes (Stich 2019, arXiv:1805.09767; McMahan et al. 2017, arXiv:1602.05629; Douillard et al. 2023,
arXiv:2311.08105). Between, nothing crosses from worker to worker: the statistics keep a leading axis of workers.

Streaming (Douillard et al. 2025, arXiv:2501.18512): layers l, l + P, l + 2P, … are fragment l, fragments meet in turn,
evenly spread over the H steps; what is no layer belongs to the first. The mean of step t is used at t + `overlap`, and
there a worker keeps a share `mixing` of what it has become.

`State.params` are the outer ones: evaluation, samples and exports read these. `State.opt` has the outer optimizer's
state of each fragment; `State.extra["workers"]` is the workers' own State, each leaf with a leading axis.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from llm_jax.core import keys, tree
from llm_jax.core.table import UserError
from llm_jax.core.types import Batch, Key, Learner, Params, State, Stats
from llm_jax.mesh.workers import each, spread
from llm_jax.optim.masks import STACKED


def local(
    learner: Learner,
    workers: int,
    every: int,
    outer: optax.GradientTransformation,
    *,
    fragments: int = 1,
    overlap: int = 0,
    mixing: float = 0.0,
    forget: bool = False,
) -> Learner:
    """Return the learner whose `workers` replicas of `learner` meet `every` steps.

    A worker weighs as much as the tokens that it has learned from since the last meeting: with equal shares, the plain
    mean. Rows [i · B/W, (i+1) · B/W) are worker i's.

    Args:
        learner: one worker; its statistics have "objective", weighted by tokens.
        workers: W, which divides the rows of a batch.
        every: H, steps between two meetings of the same layers.
        outer: turns the outer gradient into an update.
        fragments: P, at most H and at most the layers of the deepest stack.
        overlap: steps from a mean to its use, below H.
        mixing: the share that a worker keeps of its own parameters when it takes the outer ones.
        forget: workers start each round with a new inner optimizer, as clients that keep no state do.
    """
    turns = timetable(every, fragments)

    def init(key: Key) -> State:
        one = learner.init(key)
        _check_fragments(one.params, fragments)
        one = replace(one, key=None, extra=one.extra | {"tokens": jnp.zeros(fragments)})
        crowd = jax.tree.map(lambda x: jnp.broadcast_to(x, (workers, *x.shape)), one)
        own = jax.vmap(lambda i: keys.fold(key, "worker", i))(jnp.arange(workers))
        opt = tuple(outer.init(fragment(one.params, p, fragments)) for p in range(fragments))
        extra = {"workers": replace(crowd, key=own)}
        if overlap:
            extra["means"] = jax.tree.map(jnp.zeros_like, one.params)
        return State(jnp.int32(0), one.params, opt, key, extra)

    def work(worker: State, rows: Batch) -> tuple[State, Stats]:
        new, stats = learner.update(worker, rows)
        tokens = worker.extra["tokens"] + stats["objective"].weight
        return replace(new, extra=new.extra | {"tokens": tokens}), stats

    def update(state: State, batch: Batch) -> tuple[State, Stats]:
        crowd, stats = spread(each(work)(state.extra["workers"], shares(batch, workers)))
        state = replace(state, step=state.step + 1, extra=state.extra | {"workers": crowd})
        due = jnp.asarray(turns)[state.step % every]
        if not overlap:
            return _choose(due, [partial(meet, p) for p in range(fragments)], state), stats
        late = jnp.asarray(turns)[(state.step - overlap) % every]
        taken = jnp.where(state.step > overlap, late, fragments)
        state = _choose(taken, [partial(take, p) for p in range(fragments)], state)
        return _choose(due, [partial(send, p) for p in range(fragments)], state), stats

    def meet(p: int, state: State) -> State:
        means, state = gathered(p, state)
        return adopted(p, state, means)

    def send(p: int, state: State) -> State:
        means, state = gathered(p, state)
        return replace(state, extra=state.extra | {"means": placed(state.extra["means"], means, p, fragments)})

    def take(p: int, state: State) -> State:
        return adopted(p, state, fragment(state.extra["means"], p, fragments))

    def gathered(p: int, state: State) -> tuple[Params, State]:
        crowd = state.extra["workers"]
        tokens = crowd.extra["tokens"]
        means = mean(fragment(crowd.params, p, fragments, axis=1), tokens[:, p])
        crowd = replace(crowd, extra=crowd.extra | {"tokens": tokens.at[:, p].set(0.0)})
        return means, replace(state, extra=state.extra | {"workers": crowd})

    def adopted(p: int, state: State, means: Params) -> State:
        """The outer step on fragment p, and the workers as they go on from it."""
        old = fragment(state.params, p, fragments)
        updates, opt = outer.update(jax.tree.map(jnp.subtract, old, means), state.opt[p], old)
        new = optax.apply_updates(old, updates)
        crowd = state.extra["workers"]
        own = fragment(crowd.params, p, fragments, axis=1)
        begun = jax.tree.map(lambda w, x: mixing * w + (1 - mixing) * x if mixing else copies(x, w), own, new)
        crowd = replace(crowd, params=placed(crowd.params, begun, p, fragments, axis=1))
        if forget:
            crowd = replace(crowd, opt=jax.tree.map(copies, learner.init(state.key).opt, crowd.opt))
        return replace(
            state,
            params=placed(state.params, new, p, fragments),
            opt=(*state.opt[:p], opt, *state.opt[p + 1 :]),
            extra=state.extra | {"workers": spread(crowd)},
        )

    return Learner(init, update)


def federated(learner: Learner, clients: int, steps: int, server: optax.GradientTransformation) -> Learner:
    """Return the learner of rounds: `clients` of many take `steps` steps from the server's model with a new optimizer.

    Which clients is for the data to say: for the steps of a round, share i of the rows is of its i-th client. Where a
    client has fewer rows than that, the rest is of weight 0 and leaves it as it is.
    """
    return local(idle(learner), clients, steps, server, forget=True)


def idle(learner: Learner) -> Learner:
    """Return the learner that a batch of no weight leaves as it is: no decay, no momentum, only the count of steps."""

    def update(state: State, batch: Batch) -> tuple[State, Stats]:
        new, stats = learner.update(state, batch)
        some = stats["objective"].weight > 0
        params, opt = jax.tree.map(lambda a, b: jnp.where(some, a, b), (new.params, new.opt), (state.params, state.opt))
        return replace(new, params=params, opt=opt), stats

    return Learner(learner.init, update)


def copies(x: Array, like: Array) -> Array:
    """Return x [...] for every worker, [W, ...] as `like`."""
    return jnp.broadcast_to(x, like.shape)


def shares(batch: Batch, workers: int) -> Batch:
    """Return the rows of a batch [B, ...] as [W, B/W, ...], row i · B/W + j to worker i."""
    return {name: spread(x.reshape(workers, -1, *x.shape[1:])) for name, x in batch.items()}


def mean(params: Any, tokens: Float[Array, " W"]) -> Any:
    """Return the mean over the leading axis of every leaf, weighted by `tokens`; equal weights where there are none.

    A product and a sum, not a contraction, which accelerators would round to bfloat16.
    """
    total = jnp.sum(tokens)
    weights = jnp.where(total == 0, 1 / tokens.size, tokens / jnp.where(total == 0, 1.0, total))
    return jax.tree.map(lambda x: jnp.sum(weights.reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype) * x, 0), params)


def timetable(every: int, fragments: int) -> np.ndarray:
    """Return int32 [H]: which fragment meets at a step that leaves this remainder; P where none does."""
    turns = np.full(every, fragments, np.int32)
    turns[np.arange(fragments) * every // fragments] = np.arange(fragments)
    return turns


def fragment(params: Mapping[str, Any], p: int, fragments: int, axis: int = 0) -> Params:
    """Return fragment p of a tree of parameters; `axis` is where the layers of a stack are counted."""
    at = (*[slice(None)] * axis, slice(p, None, fragments))
    leaves = tree.flatten(params)
    return tree.unflatten(
        {path: x[at] if _layered(path) else x for path, x in leaves.items() if p == 0 or _layered(path)}
    )


def placed(params: Mapping[str, Any], part: Params, p: int, fragments: int, axis: int = 0) -> Params:
    """Return the tree with fragment p replaced by `part`."""
    if fragments == 1:
        return part
    at = (*[slice(None)] * axis, slice(p, None, fragments))
    new = tree.flatten(part)
    return tree.unflatten({
        path: x if path not in new else x.at[at].set(new[path]) if _layered(path) else new[path]
        for path, x in tree.flatten(params).items()
    })  # fmt: skip


def _layered(path: str) -> bool:
    return bool(STACKED.search(path))


def _check_fragments(params: Params, fragments: int) -> None:
    deepest = max((x.shape[0] for path, x in tree.flatten(params).items() if _layered(path)), default=1)
    if fragments > deepest:
        raise UserError(f"local.fragments={fragments} is more than the {deepest} layers of the model; try {deepest}")


def _choose(index: Array, branches: list[Callable[[State], State]], state: State) -> State:
    return jax.lax.switch(index, [*branches, lambda same: same], state)
