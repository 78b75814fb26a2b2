"""Span corruption (T5, Raffel et al. 2020, §3.1.4): write what was replaced by sentinels."""

from dataclasses import dataclass

import numpy as np

from llm_jax.core.types import Batch, Key, Mean, Model, Params, Stats
from llm_jax.data.corrupt import rows, spans
from llm_jax.data.features import Fields, Transform
from llm_jax.data.order import uniform
from llm_jax.objectives.causal import Causal
from llm_jax.objectives.conditional import check_corruption, check_sentinels, check_source
from llm_jax.text.base import Tokenizer

SPANS = 0x5350  # what the random numbers are for


@dataclass(frozen=True)
class Span:
    """The section `objective`.

    rate: share of the tokens that is hidden. mean_span: tokens of a span on average. sentinels: how many ids stand
    for spans; the greatest is that of the first. z_loss, label_smoothing: as of `causal`.
    """

    rate: float = 0.15
    mean_span: float = 3.0
    sentinels: int = 100
    z_loss: float = 0.0
    label_smoothing: float = 0.0
    extra_positions = 1  # of the id that ends a text

    def __post_init__(self) -> None:
        check_corruption(rate=self.rate, mean_span=self.mean_span, sentinels=self.sentinels)
        self._likelihood()

    @property
    def extra_tokens(self) -> int:
        """The sentinels."""
        return self.sentinels

    def transform(self, words: Tokenizer, seq_len: int, seed: int) -> Transform:
        """Return what makes source and target of each row.

        Raises:
            UserError: there are fewer sentinels than spans.
        """
        most = int(spans.amount(np.array([seq_len]), self.rate, self.mean_span).spans[0])
        check_sentinels(most, self.sentinels, seq_len)
        around, last = rows.ends(words), words.vocab_size + self.sentinels - 1
        read, written = (n + (around.end is not None) for n in spans.widths(seq_len, self.rate, self.mean_span))

        def corrupted(fields: Fields, numbers: np.ndarray) -> Fields:
            text = rows.texts(fields)
            random = uniform(seed, SPANS, numbers, 2 * seq_len).reshape(-1, 2, seq_len)
            hidden = spans.mask(random, text.sizes, spans.amount(text.sizes, self.rate, self.mean_span))
            return rows.pair(fields, *spans.corrupt(text, hidden, last), around, (read, written))

        return corrupted

    def fits(self, model: Model) -> None:
        """Refuse a model that has no encoder."""
        check_source("span", model)

    def __call__(self, model: Model, params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Stats]:
        """Return the loss to descend, and `loss` in nats a token of the targets, sentinels included.

        Raises:
            UserError: the model has no encoder.
        """
        self.fits(model)
        return self._likelihood()(model, params, batch, key)

    def _likelihood(self) -> Causal:
        return Causal(z_loss=self.z_loss, label_smoothing=self.label_smoothing)
