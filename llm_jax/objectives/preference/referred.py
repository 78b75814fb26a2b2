"""Preferences learnt beside a reference model, from which the learner does not stray far: DPO and IPO.

Both are of how much more probable the model finds an answer than the reference does, log(p / p_ref).
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jax.nn import log_sigmoid

from llm_jax.core import checks
from llm_jax.core.types import Array, Batch, Key, Mean, Model, Params, Stats
from llm_jax.objectives.preference.answers import READS, Pair, answers, better


def gains(pair: Pair, batch: Batch) -> tuple[Array, Array]:
    """Return log(p / p_ref) of the chosen and the rejected answers, float32 [B] each.

    Rows without the log-probabilities of a reference stand beside one that is indifferent.
    """
    known = batch.get("reference_chosen", 0.0), batch.get("reference_rejected", 0.0)
    return pair.chosen.log_prob - known[0], pair.rejected.log_prob - known[1]


@dataclass(frozen=True)
class Dpo:
    """The section `objective`: direct preference optimisation, Rafailov et al. 2023, arXiv:2305.18290, eq. 7.

    -log σ(β h), where h is by how much the chosen answer gains more than the rejected one; with `label_smoothing` ε
    the mean of that and of -log σ(-β h), weighted 1 - ε and ε (Mitchell 2023, for preferences that are so often wrong).

    reference: the workdir of the reference; by default that from which the run begins. beta: β, how close to stay.
    """

    reference: str | None = None
    beta: float = 0.1
    label_smoothing: float = 0.0
    judged = "preference"
    reads = READS

    def __post_init__(self) -> None:
        checks.positive("objective", beta=self.beta)
        checks.fraction("objective", label_smoothing=self.label_smoothing)

    def __call__(self, model: Model, params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Stats]:
        """Return the loss to descend, `accuracy`: how often β h is positive, and `margin`: its mean."""
        pair = answers(model, params, batch, key)
        chosen, rejected = gains(pair, batch)
        reward = self.beta * (chosen - rejected)
        smooth = self.label_smoothing
        each = -(1 - smooth) * log_sigmoid(reward) - smooth * log_sigmoid(-reward)
        return pair.loss(each, accuracy=better(reward), margin=reward)


@dataclass(frozen=True)
class Ipo:
    """The section `objective`: identity preference optimisation, Azar et al. 2023, arXiv:2310.12036, eq. 17.

    (h - 1 / (2 τ))², which has its least value at a finite h also where every preference agrees. Here h is of the
    gains a token, as in its authors' experiments and in TRL, which asked them.

    reference: as of `dpo`. beta: their τ.
    """

    reference: str | None = None
    beta: float = 0.1
    judged = "preference"
    reads = READS

    def __post_init__(self) -> None:
        checks.positive("objective", beta=self.beta)

    def __call__(self, model: Model, params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Stats]:
        """Return the loss to descend, and `accuracy` and `margin` as of `dpo`."""
        pair = answers(model, params, batch, key)
        chosen, rejected = gains(pair, batch)
        lengths = jnp.maximum(pair.chosen.length, 1), jnp.maximum(pair.rejected.length, 1)
        h = chosen / lengths[0] - rejected / lengths[1]
        return pair.loss(jnp.square(h - 1 / (2 * self.beta)), accuracy=better(h), margin=self.beta * h)
