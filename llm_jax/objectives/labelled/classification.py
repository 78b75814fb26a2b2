"""Classes of whole texts: the cross-entropy of the right one."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from llm_jax.core import checks
from llm_jax.core.table import UserError
from llm_jax.core.types import Array, Batch, Key, Mean, Model, Params, Stats
from llm_jax.objectives.labelled import heads


@dataclass(frozen=True)
class Classification:
    """The section `objective`.

    label_smoothing: share of the target spread over the classes (Szegedy et al. 2016, §7). class_weights: what a text
    of each class counts, in the order of data.form.labels; None: all alike. pooling: which state of a text the head
    reads, `first`, `last`, `mean`, `pooler` (the first, through the dense layer of model.pooler), or None: the last of
    a model that reads from left to right, else the mean. dropout: of that state. bias: whether the head has one, which
    those of decoders at Hugging Face have not.
    """

    label_smoothing: float = 0.0
    class_weights: list[float] | None = None
    pooling: str | None = None
    dropout: float = 0.0
    bias: bool = True
    judged = "classification"
    reads = ("tokens", "label")

    def __post_init__(self) -> None:
        checks.fraction("objective", label_smoothing=self.label_smoothing, dropout=self.dropout)
        for weight in self.class_weights or ():
            checks.positive("objective", class_weights=weight)

    @property
    def head(self) -> heads.Head:
        """What is asked of a model."""
        return heads.Head(True, self.pooling, self.dropout, self.bias)

    def fits(self, model: Model) -> None:
        """Refuse weights that are not one for each class."""
        classes = len(getattr(model, "labels", ()))
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise UserError(
                f"objective.class_weights={self.class_weights} are {len(self.class_weights)} numbers, "
                f"and data.form.classes are {classes}; give one for each"
            )

    def __call__(self, model: Model, params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Stats]:
        """Return the loss to descend, `loss` in nats a text without smoothing and class weights, and `accuracy`.

        Raises:
            UserError: rows have no labels, or the model no head for them.
        """
        outputs = model.apply(params, batch, key=key)
        scores, (label, weights) = heads.scores(outputs), heads.of_texts(batch, jnp.int32)
        loss, stats = entropy(scores, label, weights, self.label_smoothing, self.class_weights)
        return outputs.added(loss, stats)


def entropy(
    scores: Array, label: Array, weights: Array, smoothing: float = 0.0, class_weights: list[float] | None = None
) -> tuple[Mean, Stats]:
    """Return the cross-entropy of scores [...,C] with smoothing and weights, and `loss` and `accuracy` without."""
    log_p = jax.nn.log_softmax(scores)
    right = jax.nn.one_hot(label, scores.shape[-1])
    nll = -(right * log_p).sum(-1)
    smooth = (1 - smoothing) * nll - smoothing * log_p.mean(-1)
    charged = weights if class_weights is None else weights * (right @ jnp.asarray(class_weights, jnp.float32))
    correct = (scores.argmax(-1) == label) * weights
    stats = {"loss": Mean((nll * weights).sum(), weights.sum()), "accuracy": Mean(correct.sum(), weights.sum())}
    return Mean((smooth * charged).sum(), charged.sum()), stats
