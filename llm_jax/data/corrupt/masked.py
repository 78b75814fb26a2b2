"""Masking (Devlin et al. 2019, §3.1): of the chosen tokens most are hidden, some are others, some stay as they are."""

import numpy as np

from llm_jax.data.corrupt.rows import Texts
from llm_jax.text.base import Tokenizer

HIDDEN, OTHER = 0.8, 0.1  # shares of the chosen tokens; the rest stays


def masked(text: Texts, random: np.ndarray, *, rate: float, mask: int, others: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids with `rate` of the tokens chosen, int32 [B,T], and which are, bool [B,T].

    Args:
        text: whose tokens are chosen.
        random: uniform float64 [B,3,T]: of a choice (equal ones for tokens that are chosen together), of what becomes
            of it, and of the other id.
        rate: the share that is chosen, in the mean.
        mask: the id that hides one.
        others: how many ids a token may be replaced by, those from 0 on.
    """
    chosen = (random[:, 0] < rate) & text.real
    fate, other = random[:, 1], (random[:, 2] * others).astype(np.int32)
    replaced = np.where(fate < HIDDEN, mask, np.where(fate < HIDDEN + OTHER, other, text.ids))
    return np.where(chosen, replaced, text.ids).astype(np.int32), chosen


def together(values: np.ndarray, ids: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Return float64 [B,T] in which all tokens of a word have the value of its first.

    begins: whether each id begins a word, bool [V].
    """
    places = np.arange(ids.shape[1])
    first = np.maximum.accumulate(np.where(begins[ids] | (places == 0), places, 0), axis=1)
    return np.take_along_axis(values, first, axis=1)


def word_starts(words: Tokenizer) -> np.ndarray:
    """Return bool [V]: the ids that begin a word: with white space, or with what is no letter nor digit."""
    texts = [piece.decode("utf-8", "replace") for piece in words.vocabulary]
    return np.array([not text[:1].isalnum() for text in texts])


def swapped(text: Texts, random: np.ndarray) -> tuple[Texts, np.ndarray, np.ndarray]:
    """Return texts cut in two of which half have changed places, the type of each token [B,T], and which have [B].

    Sentence order (Lan et al. 2020, §3.1). The cut falls in the middle half of a text; types are 0 of the first part
    that stands there, 1 of the second. random: uniform float64 [B,2], of the cut and of the change.
    """
    cut = (text.sizes * (0.25 + random[:, 0] / 2)).astype(np.int64)
    change = random[:, 1] < 0.5
    place, sizes = np.arange(text.ids.shape[1]), text.sizes[:, None]
    second = np.where(change, text.sizes - cut, cut)[:, None]  # where the second part now begins
    moved = np.where(place < second, place + cut[:, None], place - second)
    source = np.where(change[:, None] & (place < sizes), moved, place)
    ids = np.take_along_axis(text.ids, source, axis=1)
    return Texts(ids, text.sizes), ((place >= second) & (place < sizes)).astype(np.int32), change
