"""Group-relative policy optimisation: what a model wrote becomes more probable where its group did worse.

Shao et al. 2024, "DeepSeekMath", arXiv:2402.03300, eq. 3 and 4; Liu et al. 2025, "Understanding R1-Zero-Like
Training", arXiv:2503.20783, without what depends on a group's spread and a text's length (Dr. GRPO). The batch is an
ordinary one with more fields; `run.exchange.rollouts` makes it:

| key | dtype | meaning, default when absent |
|---|---|---|
| weights | float32 [B,T] | 1 where a target was written by the model |
| advantages | float32 [B] | by how much a text did better than its group; 0 |
| behaviour | float32 [B,T] | log p of each target by the model that wrote it; this model's own |
| reference | float32 [B,T] | log p of each target by the model to stay close to; this model's own |
| rewards, spreads | float32 [B] | of the text, and the standard deviation of its group's; only for the log |
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.core import checks
from llm_jax.core.table import UserError, lookup
from llm_jax.core.targets import targets_and_weights
from llm_jax.core.types import Array, Batch, Key, Mean, Model, Outputs, Params, Stats
from llm_jax.kernels import CROSS_ENTROPY

READ = ("tokens", "segments", "positions")  # by a model
EPSILON = 1e-4  # beside the spread of a group, as in TRL


class Gains(NamedTuple):
    """Of each token [B,T]: what is to be increased, the divergence from the reference (nats), whether it was cut."""

    gain: Array
    kl: Array
    cut: Array


def gains(
    log_prob: Array,
    behaviour: Array,
    reference: Array,
    advantages: Array,
    *,
    clip: float,
    clip_high: float,
    beta: float,
) -> Gains:
    """Return min(ρ A, clip(ρ, 1 - ε, 1 + ε') A) - β KL of each token, where ρ = p / p_behaviour.

    KL is the estimate p_ref / p - log(p_ref / p) - 1, which is never negative (Schulman 2020, k3).

    Args:
        log_prob, behaviour, reference: log p of each token by three models, nats [B,T]; the first has the gradient.
        advantages: A of each row [B].
        clip, clip_high: ε and ε'.
        beta: β.
    """
    ratio, A = jnp.exp(log_prob - behaviour), advantages[:, None]
    held = jnp.clip(ratio, 1 - clip, 1 + clip_high) * A
    apart = reference - log_prob
    kl = jnp.exp(apart) - apart - 1
    return Gains(jnp.minimum(ratio * A, held) - beta * kl, kl, ratio * A > held)


@dataclass(frozen=True)
class Grpo:
    """The section `objective`.

    group: texts written from each prompt, so that a step learns from data.batch_size times as many. tokens: of a text
    at most. temperature: by which the texts are drawn, and their probabilities taken. clip, clip_high: ε, and ε' (None:
    ε; Yu et al. 2025, arXiv:2503.14476). beta: β, how close to stay to the model that the run begins from. updates: of
    the model from the same texts (their μ). verifier: a key of evals.tuned.rewards.VERIFIERS. answer: a regular
    expression whose first group, last match, is the answer in a text; None for the whole text.
    """

    group: int = 8
    tokens: int = 16
    temperature: float = 1.0
    clip: float = 0.2
    clip_high: float | None = None
    beta: float = 0.0
    updates: int = 1
    verifier: str = "exact"
    answer: str | None = None
    reads: ClassVar[tuple[str, ...]] = ("tokens", "item")

    def __post_init__(self) -> None:
        checks.positive("objective", tokens=self.tokens, temperature=self.temperature, updates=self.updates)
        checks.positive("objective", clip=self.clip, clip_high=self.clip_high)
        checks.non_negative("objective", beta=self.beta)
        if self.group < 2:
            raise UserError(f"objective.group={self.group} has nothing to compare a text with; set at least 2")
        if self.answer is not None:
            checks.pattern("objective.answer", self.answer)

    def advantages(self, rewards: np.ndarray) -> np.ndarray:
        """Return the advantages of texts, float32 [P,G], from their rewards [P,G]: a group a row."""
        apart = rewards - rewards.mean(1, keepdims=True)
        return (apart / (rewards.std(1, ddof=1, keepdims=True) + EPSILON)).astype(np.float32)

    def share(self, weights: Array) -> Array:
        """Return what each token counts in the mean over texts, [B,T]: all of a text together 1."""
        return weights / jnp.maximum(weights.sum(1, keepdims=True), 1)

    def log_prob(self, outputs: Outputs, targets: Array) -> Array:
        """Return log p of targets [B,T] at the temperature, in nats."""
        cooled = outputs.head
        if self.temperature != 1:
            cooled = jax.tree_util.Partial(lambda head, x: head(x) / self.temperature, outputs.head)
        return -lookup(CROSS_ENTROPY, "chunked", "cross_entropy")(cooled, outputs.hidden, targets).nll

    def known(self, model: Model, params: Params, batch: Batch) -> Array:
        """Return log p of a batch's targets by a model that is not learnt, [B,T]."""
        outputs = model.apply(params, {name: batch[name] for name in READ if name in batch})
        return self.log_prob(outputs, batch["targets"])

    def __call__(self, model: Model, params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Stats]:
        """Return the loss to descend, and for the log the means over texts of what was written, and `kl` of tokens.

        `clipped`: the share of tokens that were cut. `silent`: of texts whose group had equal rewards.
        """
        targets, weights = targets_and_weights(batch)
        outputs = model.apply(params, batch, key=key)
        log_prob = self.log_prob(outputs, targets)
        own = jax.lax.stop_gradient(log_prob)
        none = jnp.zeros(len(targets), jnp.float32)
        told = gains(
            log_prob, batch.get("behaviour", own), batch.get("reference", own), batch.get("advantages", none),
            clip=self.clip, clip_high=self.clip if self.clip_high is None else self.clip_high, beta=self.beta,
        )  # fmt: skip
        length = weights.sum(1)
        real = (length > 0).astype(jnp.float32)
        rows, count = real.sum(), weights.sum()

        def texts(values: Array) -> Mean:
            return Mean((values * real).sum(), rows)

        loss = Mean(-(told.gain * self.share(weights)).sum(), rows)
        stats = {"loss": loss, "length": texts(length), "reward": texts(batch.get("rewards", none))}
        spreads = batch.get("spreads", none)
        stats |= {"reward_std": texts(spreads), "silent": texts((spreads == 0).astype(jnp.float32))}
        stats |= {"advantage_size": texts(jnp.abs(batch.get("advantages", none)))}
        stats |= {"kl": Mean((told.kl * weights).sum(), count), "clipped": Mean((told.cut * weights).sum(), count)}
        return outputs.added(loss, stats)


@dataclass(frozen=True)
class DrGrpo(Grpo):
    """The section `objective`: Dr. GRPO, in which no text or group counts more for its length or its spread."""

    def advantages(self, rewards: np.ndarray) -> np.ndarray:
        """Return rewards [P,G] less the mean of their group."""
        return (rewards - rewards.mean(1, keepdims=True)).astype(np.float32)

    def share(self, weights: Array) -> Array:
        """Return what each token counts, [B,T]: the same for all, one over the most tokens of a text."""
        return weights / self.tokens
