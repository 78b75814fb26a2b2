"""UL2's mixture of denoisers (Tay et al. 2022): each row is corrupted by one of seven, and told by its mode token."""

from dataclasses import dataclass

import numpy as np

from llm_jax.core import checks
from llm_jax.core.types import Batch, Key, Mean, Model, Params, Stats
from llm_jax.data.corrupt import rows, spans
from llm_jax.data.corrupt.denoisers import MODES, UL2, drawn
from llm_jax.data.features import Fields, Transform
from llm_jax.data.order import uniform
from llm_jax.objectives.causal import Causal
from llm_jax.objectives.conditional import check_sentinels, check_source
from llm_jax.text.base import Tokenizer

MIXTURE = 0x554C32  # what the random numbers are for


@dataclass(frozen=True)
class Ul2:
    """The section `objective`.

    sentinels: how many ids stand for spans; the greatest is that of the first. The modes R, S, X have the three
    ids after the tokenizer's, before the sentinels. z_loss, label_smoothing: as of `causal`.
    """

    sentinels: int = 100
    z_loss: float = 0.0
    label_smoothing: float = 0.0
    extra_positions = 2  # of the mode, and of the id that ends a text

    def __post_init__(self) -> None:
        checks.positive("objective", sentinels=self.sentinels)
        self._likelihood()

    @property
    def extra_tokens(self) -> int:
        """The modes and the sentinels."""
        return len(MODES) + self.sentinels

    def transform(self, words: Tokenizer, seq_len: int, seed: int) -> Transform:
        """Return what makes source and target of each row; all are padded to the longest of any denoiser.

        Raises:
            UserError: there are fewer sentinels than spans.
        """
        _, most = drawn(np.arange(len(UL2)) / len(UL2) + 1e-9, np.full(len(UL2), seq_len))
        check_sentinels(int(most.spans.max()), self.sentinels, seq_len)
        around, last = rows.ends(words), words.vocab_size + self.extra_tokens - 1
        more = around.end is not None
        read = int((seq_len - most.noise + most.spans).max()) + 1 + more
        written = int((most.noise + most.spans).max()) + more
        modes = words.vocab_size + np.array([MODES.index(d.mode) for d in UL2])

        def corrupted(fields: Fields, numbers: np.ndarray) -> Fields:
            text = rows.texts(fields)
            random = uniform(seed, MIXTURE, numbers, 2 * seq_len + 1)
            chosen, hidden = drawn(random[:, 0], text.sizes)
            masks = spans.mask(random[:, 1:].reshape(-1, 2, seq_len), text.sizes, hidden)
            source, target = spans.corrupt(text, masks, last)
            return rows.pair(fields, rows.led(source, modes[chosen]), target, around, (read, written))

        return corrupted

    def fits(self, model: Model) -> None:
        """Refuse a model that has no encoder."""
        check_source("ul2", model)

    def __call__(self, model: Model, params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Stats]:
        """Return the loss to descend, and `loss` in nats a token of the targets, sentinels included.

        Raises:
            UserError: the model has no encoder.
        """
        self.fits(model)
        return self._likelihood()(model, params, batch, key)

    def _likelihood(self) -> Causal:
        return Causal(z_loss=self.z_loss, label_smoothing=self.label_smoothing)
