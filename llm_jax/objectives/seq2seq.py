"""Writing one text from another (Sutskever et al. 2014): the mean of -log p(target | earlier targets, source)."""

from dataclasses import dataclass

from llm_jax.core.types import Batch, Key, Mean, Model, Params, Stats
from llm_jax.objectives.causal import Causal
from llm_jax.objectives.conditional import check_source


@dataclass(frozen=True)
class Seq2Seq(Causal):
    """The section `objective`; batches have `source_tokens` beside `tokens` and `targets`."""

    reads = ("tokens", "source_tokens")

    def fits(self, model: Model) -> None:
        """Refuse a model that has no encoder."""
        check_source("seq2seq", model)

    def __call__(self, model: Model, params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Stats]:
        """Return the loss to descend and `loss`, as `Causal` does.

        Raises:
            UserError: the model has no encoder.
        """
        self.fits(model)
        return super().__call__(model, params, batch, key)
