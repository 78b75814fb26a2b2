"""Distillation from a teacher that tells its few likeliest tokens alone, as services do.

Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2, at temperature 1, the tokens that are not told being one
outcome: alpha · KL(teacher || student) over K + 1 outcomes + (1 - alpha) · cross-entropy. The divergence of fewer
outcomes is never above that of all.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from llm_jax.core import checks
from llm_jax.core.targets import targets_and_weights
from llm_jax.core.types import Batch, Key, Mean, Model, Params, Stats
from llm_jax.objectives.causal import Causal

TINY = 1e-6  # below it what is left of float32 sums is rounding


@dataclass(frozen=True)
class Soft:
    """The section `objective`. alpha: the share of the teacher in the loss, where it told something."""

    alpha: float = 0.5
    reads = ("teacher_tokens", "teacher_log_probs")

    def __post_init__(self) -> None:
        if self.alpha != 1:
            checks.fraction("objective", alpha=self.alpha)

    def __call__(self, model: Model, params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Stats]:
        """Return the loss to descend; `loss` is the plain one, `distill` the divergence, in nats a token.

        `teacher_tokens` int32 [B,T,K] are what may stand in the place of a target, -1 for none, `teacher_log_probs`
        float32 [B,T,K] what the teacher gives them. A batch without them is learnt from alone.
        """
        outputs = model.apply(params, batch, key=key)
        loss, stats = Causal().of(outputs, batch)
        if "teacher_tokens" not in batch:
            return loss, stats
        targets, weights = targets_and_weights(batch)
        ids = jnp.asarray(batch["teacher_tokens"], jnp.int32)
        known, student = ids >= 0, jax.nn.log_softmax(outputs.logits)
        teacher = jnp.where(known, jnp.asarray(batch["teacher_log_probs"], jnp.float32), 0.0)
        p = jnp.where(known, jnp.exp(teacher), 0.0)
        apart = (p * (teacher - jnp.take_along_axis(student, jnp.maximum(ids, 0), -1))).sum(-1)
        told_of = (ids[..., None] == jnp.arange(student.shape[-1])).any(-2)
        others = jnp.where(told_of, -jnp.inf, student)
        left = 1 - p.sum(-1)
        others = jax.nn.logsumexp(jnp.where((left > TINY)[..., None], others, 0.0), -1)
        apart += jnp.where(left > TINY, left * (jnp.log(jnp.maximum(left, TINY)) - others), 0.0)
        told = weights * known.any(-1)
        divergence = Mean((apart * told).sum(), told.sum())
        nll = -jnp.take_along_axis(student, targets[..., None], -1)[..., 0]
        change = divergence.total - (nll * told).sum()
        return Mean(loss.total + self.alpha * change, loss.weight), stats | {"distill": divergence}
