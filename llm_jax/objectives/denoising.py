"""BART's denoising (Lewis et al. 2020, §2.2): write the text of which spans are hidden and sentences out of order."""

from dataclasses import dataclass

import numpy as np

from llm_jax.core import checks
from llm_jax.core.types import Batch, Key, Mean, Model, Params, Stats
from llm_jax.data.corrupt import rows
from llm_jax.data.corrupt.denoisers import infilled, permuted
from llm_jax.data.features import Fields, Transform
from llm_jax.data.order import uniform
from llm_jax.objectives.causal import Causal
from llm_jax.objectives.conditional import check_source
from llm_jax.text.base import Tokenizer

NOISE = 0x42415254  # what the random numbers are for


@dataclass(frozen=True)
class Denoising:
    """The section `objective`.

    rate: share of the tokens that is hidden, at most half. mean_span: of the Poisson lengths of spans, each one mask
    (the id after the tokenizer's). permute: whether sentences, which end in a full stop or with a text, change places.
    z_loss, label_smoothing: as of `causal`.
    """

    rate: float = 0.3
    mean_span: float = 3.0
    permute: bool = True
    z_loss: float = 0.0
    label_smoothing: float = 0.0
    extra_tokens = 1  # the mask
    extra_positions = 1  # of the id that ends a text

    def __post_init__(self) -> None:
        checks.fraction("objective", rate=self.rate)
        checks.positive("objective", rate=self.rate, mean_span=self.mean_span)
        self._likelihood()

    def transform(self, words: Tokenizer, seq_len: int, seed: int) -> Transform:
        """Return what makes the source of each row; the target is the row."""
        around, mask = rows.ends(words), words.vocab_size
        closes = np.array([piece.rstrip().endswith(b".") for piece in words.vocabulary])
        if around.end is not None:
            closes[around.end] = True
        width = seq_len + (around.end is not None)

        def corrupted(fields: Fields, numbers: np.ndarray) -> Fields:
            text = rows.texts(fields)
            random = uniform(seed, NOISE, numbers, 3 * seq_len + 2)
            source = permuted(text, random[:, :seq_len], closes) if self.permute else text
            places = random[:, seq_len:].reshape(-1, 2, seq_len + 1)
            source, _ = infilled(source, places, rate=self.rate, mean=self.mean_span, mask=mask)
            return rows.pair(fields, source, text, around, (width, width))

        return corrupted

    def fits(self, model: Model) -> None:
        """Refuse a model that has no encoder."""
        check_source("denoising", model)

    def __call__(self, model: Model, params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Stats]:
        """Return the loss to descend, and `loss` in nats a token.

        Raises:
            UserError: the model has no encoder.
        """
        self.fits(model)
        return self._likelihood()(model, params, batch, key)

    def _likelihood(self) -> Causal:
        return Causal(z_loss=self.z_loss, label_smoothing=self.label_smoothing)
