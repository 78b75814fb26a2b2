"""DP-SGD: the gradient of each row is cut to a length, and noise of that size is added to their sum.

Abadi et al. 2016, "Deep Learning with Differential Privacy", arXiv:1607.00133, algorithm 1; what it promises is counted
by `learn.accountant`. The promise is of the parameters, for one row of the text more or less; statistics in the log,
and a tokenizer that was trained on the text, are not part of it.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import optax

from llm_jax.core import keys, tree
from llm_jax.core.table import UserError
from llm_jax.core.types import Array, Batch, GradientRule, Key, Learner, Mean, Model, Objective, Params, Stats
from llm_jax.learn.accumulate import accumulate
from llm_jax.learn.gradient import check_real, gradient, learnt, plain
from llm_jax.mesh import plan
from llm_jax.optim.transform import global_norm

TINY = 1e-30  # below every norm that counts


def clipped(rule: GradientRule, norm: float) -> GradientRule:
    """Return the rule that adds up rows' own mean gradients, each cut to the length `norm`.

    A row without weight adds nothing. The statistic `clipped` is the share of rows that were cut.
    """

    def row(params: Params, one: Batch, key: Key | None) -> tuple[Mean, Mean, Stats]:
        summed, loss, stats = rule(params, {name: x[None] for name, x in one.items()}, key)
        own, real = summed.value, (summed.weight > 0).astype(jnp.float32)
        length = global_norm(own)
        scale = real * jnp.minimum(1.0, norm / jnp.maximum(length, TINY))
        cut = Mean(real * (length > norm), real)
        return Mean(jax.tree.map(lambda g: g * scale.astype(g.dtype), own), real), loss, stats | {"clipped": cut}

    def summed(params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Mean, Stats]:
        rows = {name: jnp.asarray(x) for name, x in batch.items()}
        count = len(rows["tokens"])
        own = None if key is None else jax.vmap(lambda i: keys.fold(key, "row", i))(jnp.arange(count))
        with plan.read(replace(plan.current(), mesh=None)):  # within a row there is nothing to lay out
            each = jax.vmap(row, in_axes=(None, 0, None if key is None else 0))(params, rows, own)
        return jax.tree.map(lambda x: x.sum(0), each)

    return summed


def noised(rule: GradientRule, std: float, expected: float) -> GradientRule:
    """Return the rule that adds normal noise to summed gradients, and takes them as those of `expected` rows."""

    def rule_with_noise(params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Mean, Stats]:
        summed, loss, stats = rule(params, batch, key)

        def noisy(path: str, g: Array) -> Array:
            return g + std * jax.random.normal(keys.fold(keys.fold(key, "noise"), path), g.shape, g.dtype)

        return Mean(tree.map_with_path(noisy, summed.total), jnp.float32(expected)), loss, stats

    return rule_with_noise


def private(
    model: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    microbatches: int = 1,
    clip_norm: float = 1.0,
    noise: float = 1.0,
    expected: float | None = None,
) -> Learner:
    """Return the learner of DP-SGD, whatever `optimizer` makes of the noisy gradients.

    Args:
        model, objective, optimizer, microbatches: as of `gradient.descent`; rows of a part are differentiated at once.
        clip_norm: the length of a row's gradient at most.
        noise: the standard deviation of the noise, in units of `clip_norm`.
        expected: rows of a batch on average.

    Raises:
        UserError: batches are not drawn as the accounting wants it, or a parameter is no real number.
    """
    if expected is None:
        raise UserError('train.learner="private" needs data.poisson: rows of a batch on average, as half of batch_size')
    check_real(model)
    rule = accumulate(clipped(plain(model, objective), clip_norm), microbatches)
    return gradient(noised(rule, noise * clip_norm, expected), model.init, optimizer, part=partial(learnt, model))
