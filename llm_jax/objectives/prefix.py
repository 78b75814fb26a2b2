"""Prefix language modelling (Raffel et al. 2020, §3.2.3): a text is cut at random, and its end is to be written."""

from dataclasses import dataclass

import numpy as np

from llm_jax.core.types import Batch, Key, Mean, Model, Params, Stats
from llm_jax.data.corrupt import prefix, rows
from llm_jax.data.features import Fields, Transform
from llm_jax.data.order import uniform
from llm_jax.objectives.causal import Causal
from llm_jax.objectives.conditional import check_source
from llm_jax.text.base import Tokenizer

CUT = 0x435554  # what the random numbers are for


@dataclass(frozen=True)
class Prefix:
    """The section `objective`.

    encoded: the beginning is the source of an encoder-decoder; otherwise a decoder reads it before the end, from left
    to right as all else, and only the end counts. z_loss, label_smoothing: as of `causal`.
    """

    encoded: bool = False
    z_loss: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        self._likelihood()

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
            return fields | {"weights": (weights * (number > given[:, None])).astype(np.float32)}

        return divided if self.encoded else counted

    def fits(self, model: Model) -> None:
        """Refuse a model that has no encoder, where it is to read the beginning."""
        if self.encoded:
            check_source("prefix", model)

    def __call__(self, model: Model, params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Stats]:
        """Return the loss to descend, and `loss` in nats a token of the ends.

        Raises:
            UserError: `encoded`, and the model has no encoder.
        """
        self.fits(model)
        return self._likelihood()(model, params, batch, key)

    def _likelihood(self) -> Causal:
        return Causal(z_loss=self.z_loss, label_smoothing=self.label_smoothing)
