"""Preferences learnt without a reference model: ORPO and SimPO, of log p a token."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax.nn import log_sigmoid

from llm_jax.core import checks
from llm_jax.core.types import Array, Batch, Key, Mean, Model, Params, Stats
from llm_jax.objectives.preference.answers import READS, answers, better


@dataclass(frozen=True)
class Orpo:
    """The section `objective`: odds ratio preference optimisation, Hong et al. 2024, arXiv:2403.07691, eq. 6 and 7.

    The loss of the chosen answer, nats a token, - λ log σ(log odds(chosen) - log odds(rejected)), where
    odds = p / (1 - p) and p is the geometric mean of the probabilities of an answer's tokens.

    beta: their λ.
    """

    beta: float = 0.1
    judged = "preference"
    reads = READS

    def __post_init__(self) -> None:
        checks.positive("objective", beta=self.beta)

    def __call__(self, model: Model, params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Stats]:
        """Return the loss to descend; `margin` is the log of the ratio of odds, `accuracy` how often it is positive."""
        pair = answers(model, params, batch, key)
        ratio = _log_odds(pair.chosen.mean) - _log_odds(pair.rejected.mean)
        each = -pair.chosen.mean - self.beta * log_sigmoid(ratio)
        return pair.loss(each, accuracy=better(ratio), margin=ratio)


def _log_odds(log_p: Array) -> Array:
    """Return log(p / (1 - p)) of log p; finite also at p = 1."""
    below = jnp.minimum(log_p, -1e-6)
    return below - jnp.log(-jnp.expm1(below))


@dataclass(frozen=True)
class Simpo:
    """The section `objective`: simple preference optimisation, Meng et al. 2024, arXiv:2405.14734, eq. 6.

    -log σ(β (log p a token of chosen - log p a token of rejected) - γ).

    beta: β. gamma: γ, by how much the chosen answer is to be ahead.
    """

    beta: float = 2.0
    gamma: float = 1.0
    judged = "preference"
    reads = READS

    def __post_init__(self) -> None:
        checks.positive("objective", beta=self.beta)
        checks.non_negative("objective", gamma=self.gamma)

    def __call__(self, model: Model, params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Stats]:
        """Return the loss to descend; `margin` is that of the rewards, `accuracy` how often it is positive."""
        pair = answers(model, params, batch, key)
        margin = self.beta * (pair.chosen.mean - pair.rejected.mean)
        return pair.loss(-log_sigmoid(margin - self.gamma), accuracy=better(margin), margin=margin)
