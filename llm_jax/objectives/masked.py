"""Masked language modelling (Devlin et al. 2019), by tokens or whole words, with sentence order (Lan et al. 2020)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.core import checks
from llm_jax.core.table import UserError
from llm_jax.core.targets import targets_and_weights
from llm_jax.core.types import Batch, Decodes, Key, Mean, Model, Params, Stats
from llm_jax.data.corrupt import rows
from llm_jax.data.corrupt.masked import masked, swapped, together, word_starts
from llm_jax.data.features import Fields, Transform
from llm_jax.data.order import uniform
from llm_jax.objectives.causal import Causal
from llm_jax.text.base import Tokenizer

NOISE, ORDER = 0x4D41534B, 0x4F524452  # what the random numbers are for
MASK = "[MASK]", "<mask>"


def mask_of(words: Tokenizer) -> int:
    """Return the id that hides a token: the tokenizer's own, or the one after its last."""
    return next((words.added[name].id for name in MASK if name in words.added), words.vocab_size)


@dataclass(frozen=True)
class Masked:
    """The section `objective`.

    rate: share of the tokens that are to be told from the others. whole_words: choose words, not tokens.
    sentence_order: weight of telling whether a row's two parts changed places; 0 leaves them in their order.
    label_smoothing: as of `causal`.
    """

    rate: float = 0.15
    whole_words: bool = False
    sentence_order: float = 0.0
    label_smoothing: float = 0.0
    extra_tokens = 1  # the mask

    def __post_init__(self) -> None:
        checks.fraction("objective", rate=self.rate, label_smoothing=self.label_smoothing)
        checks.positive("objective", rate=self.rate)
        checks.non_negative("objective", sentence_order=self.sentence_order)

    def transform(self, words: Tokenizer, seq_len: int, seed: int) -> Transform:
        """Return what hides tokens of each row; the mask is the tokenizer's own, or the id after its last."""
        mask = mask_of(words)
        begins = word_starts(words) if self.whole_words else None

        def corrupted(fields: Fields, numbers: np.ndarray) -> Fields:
            text = rows.texts(fields)
            kept = {name: value for name, value in fields.items() if value.ndim == 1}
            if self.sentence_order:
                text, types, change = swapped(text, uniform(seed, ORDER, numbers, 2))
                kept |= {"token_types": types, "label": change.astype(np.int32)}
            random = uniform(seed, NOISE, numbers, 3 * seq_len).reshape(-1, 3, seq_len)
            if begins is not None:
                random[:, 0] = together(random[:, 0], text.ids, begins)
            tokens, chosen = masked(text, random, rate=self.rate, mask=mask, others=words.vocab_size)
            return kept | {
                "tokens": tokens,
                "targets": text.ids,
                "weights": chosen.astype(np.float32),
                "segments": text.real.astype(np.int32),
            }

        return corrupted

    def __call__(self, model: Model, params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Stats]:
        """Return the loss to descend, `loss` in nats a chosen token, `order` in nats a row and its `order_accuracy`.

        Raises:
            UserError: the model reads from left to right, or has no head for the order of sentences.
        """
        if isinstance(model, Decodes):
            raise UserError(
                f'objective.name="masked" needs an encoder such as bert; model.name={type(model).__name__.lower()!r} '
                'reads from left to right, which objective.name="causal" fits'
            )
        outputs = model.apply(params, batch, key=key)
        loss, stats = Causal(label_smoothing=self.label_smoothing).of(outputs, batch)
        if not self.sentence_order or "label" not in batch:
            return loss, stats
        if "order" not in outputs.extras:
            raise UserError(
                "objective.sentence_order needs a model with a pooler: set model.pooler=True, or leave it out"
            )
        scores, label = outputs.extras["order"], jnp.asarray(batch["label"], jnp.int32)
        nll = -jnp.take_along_axis(jax.nn.log_softmax(scores), label[:, None], axis=1)[:, 0]
        _, weights = targets_and_weights(batch)
        share, real = weights.sum(1), (weights > 0).any(1).astype(jnp.float32)  # a row counts as its tokens do
        total = Mean(loss.total + self.sentence_order * (nll * share).sum(), loss.weight)
        right = (scores.argmax(1) == label) * real
        return total, stats | {
            "order": Mean((nll * real).sum(), real.sum()),
            "order_accuracy": Mean(right.sum(), real.sum()),
        }
