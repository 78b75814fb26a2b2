"""Prefix language modelling (Raffel et al. 2020, §3.2): a text is cut at random, and its end is to be written."""

from dataclasses import dataclass

import numpy as np

from llm_jax.core.table import UserError
from llm_jax.core.types import Batch, Key, Mean, Model, Params, Stats
from llm_jax.data.corrupt import prefix, rows
from llm_jax.data.features import Fields, Transform
from llm_jax.data.order import uniform
from llm_jax.objectives.causal import Causal
from llm_jax.objectives.conditional import check_prefix, check_source
from llm_jax.text.base import Tokenizer

CUT = 0x435554  # what the random numbers are for


@dataclass(frozen=True)
class Prefix:
    """The section `objective`.

    encoded: the beginning is the source of an encoder-decoder; otherwise a decoder reads it before the end, and only
    the end counts. bidirectional: it is read in both directions (a prefix LM, §3.2.1), and so are prompts by the
    trained model; otherwise from left to right as all else. z_loss, label_smoothing: as of `causal`.

    A row is cut once. Of several texts in a row, those before the cut are all prefix, and those after it have none.
    """

    encoded: bool = False
    bidirectional: bool = False
    z_loss: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        self._likelihood()
        if self.encoded and self.bidirectional:
            raise UserError(
                "objective.bidirectional=True is for decoders alone: an encoder, as with objective.encoded=True, reads "
                "in both directions anyway; leave out one of them"
            )

    def transform(self, words: Tokenizer, seq_len: int, seed: int) -> Transform:
        """Return what cuts each row."""
        around = rows.ends(words)
        width = seq_len - 1 + (around.end is not None)

        def divided(fields: Fields, numbers: np.ndarray) -> Fields:
            text = rows.texts(fields)
            given = prefix.cut(uniform(seed, CUT, numbers, 1)[:, 0], text.sizes)
            return rows.pair(fields, *prefix.halves(text, given), around, (width, width))

        def counted(fields: Fields, numbers: np.ndarray) -> Fields:
            real = np.ones(fields["targets"].shape, np.float32)
            weights = fields.get("weights", real) * (fields.get("segments", real) > 0)
            number = np.cumsum(weights > 0, 1)  # of each target, from 1
            given = prefix.cut(uniform(seed, CUT, numbers, 1)[:, 0], number[:, -1])
            cut = fields | {"weights": (weights * (number > given[:, None])).astype(np.float32)}
            return cut | {"prefix": prefix.before_targets(cut)} if self.bidirectional else cut

        return divided if self.encoded else counted

    def fits(self, model: Model) -> None:
        """Refuse a model that cannot read the beginning as is asked: by an encoder, or in both directions."""
        if self.encoded:
            check_source("prefix", model)
        if self.bidirectional:
            check_prefix(model)

    def __call__(self, model: Model, params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Stats]:
        """Return the loss to descend, and `loss` in nats a token of the ends.

        Raises:
            UserError: the model does not fit.
        """
        self.fits(model)
        return self._likelihood()(model, params, batch, key)

    def _likelihood(self) -> Causal:
        return Causal(z_loss=self.z_loss, label_smoothing=self.label_smoothing)
