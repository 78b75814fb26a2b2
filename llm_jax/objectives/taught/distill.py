"""Distillation: learn what a larger model says of every possible next token, beside the token that came.

Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, section 2:
alpha · T² · KL(teacher at temperature T || student at T) + (1 - alpha) · cross-entropy. The factor T² keeps the two in
proportion whatever T is.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from llm_jax.core import checks
from llm_jax.core.targets import targets_and_weights
from llm_jax.core.types import Batch, Key, Mean, Model, Params, Stats
from llm_jax.objectives.causal import Causal


@dataclass(frozen=True)
class Distill:
    """The section `objective`.

    teacher: the workdir of a run with the same tokenizer; its logits come in every batch, as `teacher_logits`.
    temperature: T, by which both models' logits are divided. alpha: the share of the teacher in the loss.
    """

    teacher: str | None = None
    temperature: float = 2.0
    alpha: float = 0.5

    def __post_init__(self) -> None:
        checks.positive("objective", temperature=self.temperature)
        if self.alpha != 1:
            checks.fraction("objective", alpha=self.alpha)

    def __call__(self, model: Model, params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Stats]:
        """Return the loss to descend; `loss` is the plain one, `distill` the divergence, in nats a token.

        A batch without `teacher_logits` [B,T,V] is learnt from alone.
        """
        outputs = model.apply(params, batch, key=key)
        loss, stats = Causal().of(outputs, batch)
        if "teacher_logits" not in batch:
            return loss, stats
        _, weights = targets_and_weights(batch)
        student = jax.nn.log_softmax(outputs.logits / self.temperature)
        teacher = jax.nn.log_softmax(jnp.asarray(batch["teacher_logits"], jnp.float32) / self.temperature)
        apart = (jnp.exp(teacher) * (teacher - student)).sum(-1)
        told = Mean((apart * weights).sum(), weights.sum())
        change = self.temperature**2 * told.total - stats["loss"].total
        return Mean(loss.total + self.alpha * change, loss.weight), stats | {"distill": told}
