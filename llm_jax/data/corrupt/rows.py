"""Rows as texts of their own, and pairs of texts as the fields of an encoder-decoder's batch."""

from typing import NamedTuple

import numpy as np

from llm_jax.data.features import Fields
from llm_jax.text.base import Tokenizer


class Texts(NamedTuple):
    """Texts of several lengths: ids int32 [B,T], those of a row first; sizes int64 [B]."""

    ids: np.ndarray
    sizes: np.ndarray

    @property
    def real(self) -> np.ndarray:
        """Where a text has a token, bool [B,T]."""
        return np.arange(self.ids.shape[1]) < self.sizes[:, None]


class Ends(NamedTuple):
    """The id before the first that a decoder writes, and the one after the last, None where a tokenizer has none."""

    start: int
    end: int | None


def ends(words: Tokenizer) -> Ends:
    """Return the ids around a text: padding starts it, as in T5, or what ends one."""
    return Ends(next((i for i in (words.pad_id, words.eos_id) if i is not None), 0), words.eos_id)


def texts(fields: Fields) -> Texts:
    """Return what packed rows predict: every target with weight, so that no token of a corpus counts twice."""
    targets = fields["targets"]
    real = np.ones(targets.shape, bool)
    for name in ("weights", "segments"):
        real &= fields.get(name, real) > 0
    return kept(targets, real)


def kept(ids: np.ndarray, keep: np.ndarray) -> Texts:
    """Return the ids of each row where `keep` is True, both [B,T], moved to its beginning; 0 follows them."""
    order, sizes = np.argsort(~keep, axis=1, kind="stable"), keep.sum(1)
    moved = np.take_along_axis(ids, order, 1)
    return Texts(np.where(np.arange(ids.shape[1]) < sizes[:, None], moved, 0).astype(np.int32), sizes)


def ended(text: Texts, end: int | None, width: int) -> Texts:
    """Return texts padded to `width` with the id `end` after each; an empty row stays empty, None adds nothing."""
    ids = np.pad(text.ids, ((0, 0), (0, max(0, width - text.ids.shape[1]))))[:, :width]
    if end is None:
        return Texts(ids, text.sizes)
    at = np.arange(width) == text.sizes[:, None]
    return Texts(np.where(at & (text.sizes > 0)[:, None], end, ids).astype(np.int32), text.sizes + (text.sizes > 0))


def pair(fields: Fields, source: Texts, target: Texts, around: Ends, widths: tuple[int, int]) -> Fields:
    """Return the batch in which `target` is to be written from `source`.

    Args:
        fields: of the packed rows; what they have of a whole row (`domain`) is kept.
        source: what the encoder reads, without the id that ends it.
        target: what the decoder writes, likewise.
        around: the ids that start and end.
        widths: tokens of the longest source and target, the ids that end them included.
    """
    read, written = (ended(text, around.end, width) for text, width in zip((source, target), widths, strict=True))
    before = np.full((len(written.ids), 1), around.start, np.int32)
    return {
        **{name: value for name, value in fields.items() if value.ndim == 1},
        "source_tokens": read.ids,
        "source_segments": read.real.astype(np.int32),
        "tokens": np.concatenate([before, written.ids[:, :-1]], 1),
        "targets": written.ids,
        "weights": written.real.astype(np.float32),
        "segments": written.real.astype(np.int32),
    }


def led(text: Texts, first: np.ndarray) -> Texts:
    """Return texts with the id `first` [B] before each; an empty row stays empty."""
    full = text.sizes > 0
    ids = np.concatenate([np.where(full, first, 0)[:, None], text.ids], 1)
    return Texts(ids.astype(np.int32), text.sizes + full)
