"""The likelihood under a model with latent vectors, from below and tighter than its bound (Burda et al. 2016)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core import keys
from llm_jax.core.targets import targets_and_weights
from llm_jax.core.types import Array, Batch, Key, Latent, Params
from llm_jax.evals.perplexity import beside_counts
from llm_jax.kernels.cross_entropy import chunked


def row_sums(model: Latent, params: Params, batch: Batch, key: Key, draws: int) -> Array:
    """Return float32 [B,3] as `evals.perplexity.row_sums`, its nats by the mean of p(row, z) / q(z | row) of M draws.

    M = 1 is the bound itself; more draws are never further from the likelihood, in expectation.
    """
    targets, weights = targets_and_weights(batch)
    mean, log_variance = model.posterior(params, batch)

    def log_ratio(index: Array) -> Array:
        noise = jax.random.normal(keys.fold(key, "draw", index), mean.shape)
        z = mean + jnp.exp(log_variance / 2) * noise
        outputs = model.decode(params, batch, z)
        nll = (chunked(outputs.head, outputs.hidden, targets).nll * weights).sum(1)
        prior_over_q = (jnp.square(noise) + log_variance - jnp.square(z)).sum(1) / 2  # log N(z; 0, 1) - log q(z | row)
        return prior_over_q - nll

    ratios = jax.lax.map(log_ratio, jnp.arange(draws))
    nats = (jnp.log(draws) - jax.nn.logsumexp(ratios, axis=0)) * (weights.sum(1) > 0)
    return beside_counts(nats, batch)


def evaluator(model: Latent, draws: int, seed: int = 0) -> Callable[[Params, Batch], Any]:
    """Return the compiled (params, batch) -> [B,3] sums, with the same draws for every batch."""
    return jax.jit(partial(_sums, model, jax.random.key(seed), draws))


def _sums(model: Latent, key: Key, draws: int, params: Params, batch: Batch) -> Array:
    return row_sums(model, params, batch, key, draws)
