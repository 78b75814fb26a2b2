"""Tags of single tokens: the cross-entropy of the right one at each."""

from dataclasses import dataclass

from llm_jax.core import checks
from llm_jax.core.types import Batch, Key, Mean, Model, Params, Stats
from llm_jax.objectives.labelled import heads
from llm_jax.objectives.labelled.classification import entropy


@dataclass(frozen=True)
class Tagging:
    """The section `objective`. label_smoothing, dropout: as of `classification`.

    A model that reads from left to right tags each token by what came before it alone.
    """

    label_smoothing: float = 0.0
    dropout: float = 0.0
    judged = "tagging"
    reads = ("tokens", "tags")

    def __post_init__(self) -> None:
        checks.fraction("objective", label_smoothing=self.label_smoothing, dropout=self.dropout)

    @property
    def head(self) -> heads.Head:
        """What is asked of a model."""
        return heads.Head(True, "tokens", self.dropout)

    def __call__(self, model: Model, params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Stats]:
        """Return the loss to descend, `loss` in nats a token without smoothing, and `accuracy`.

        Raises:
            UserError: tokens have no tags, or the model no head for them.
        """
        outputs = model.apply(params, batch, key=key)
        loss, stats = entropy(heads.scores(outputs), *heads.of_tokens(batch), self.label_smoothing)
        return outputs.added(loss, stats)
