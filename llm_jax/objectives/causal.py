"""Autoregressive language modelling: the mean of -log p(target | earlier tokens), with z-loss and label smoothing."""

from dataclasses import dataclass

import jax.numpy as jnp

from llm_jax.core import checks
from llm_jax.core.table import lookup
from llm_jax.core.targets import targets_and_weights
from llm_jax.core.types import Batch, Key, Mean, Model, Outputs, Params, Stats
from llm_jax.kernels import CROSS_ENTROPY


@dataclass(frozen=True)
class Causal:
    """The section `objective`.

    z_loss: weight of log² Z, which keeps logits near normalised (PaLM, Chowdhery et al. 2022, §5: 1e-4).
    label_smoothing: share of the target spread over the vocabulary (Szegedy et al. 2016, §7).
    cross_entropy: `plain`, or `chunked` where the logits of a whole batch do not fit.
    """

    z_loss: float = 0.0
    label_smoothing: float = 0.0
    cross_entropy: str = "plain"

    def __post_init__(self) -> None:
        checks.non_negative("objective", z_loss=self.z_loss)
        checks.fraction("objective", label_smoothing=self.label_smoothing)
        lookup(CROSS_ENTROPY, self.cross_entropy, "objective.cross_entropy")

    def __call__(self, model: Model, params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Stats]:
        """Return the loss to descend, and `loss`: without the z-loss, in nats a token, for the log."""
        return self.of(model.apply(params, batch, key=key), batch)

    def of(self, outputs: Outputs, batch: Batch) -> tuple[Mean, Stats]:
        """Return the loss and statistics of a model's outputs."""
        targets, weights = targets_and_weights(batch)
        kernel = lookup(CROSS_ENTROPY, self.cross_entropy, "objective.cross_entropy")
        token = kernel(outputs.head, outputs.hidden, targets, smoothing=self.label_smoothing)
        weight = weights.sum()
        loss = Mean((token.nll * weights).sum(), weight)
        stats = {"loss": loss}
        if self.z_loss:
            z = Mean((jnp.square(token.log_z) * weights).sum(), weight)
            stats["z"] = z
            loss = Mean(loss.total + self.z_loss * z.total, weight)
        return outputs.added(loss, stats)
