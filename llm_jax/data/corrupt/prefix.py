"""A text cut in two at random: the beginning is given, the rest is to be written (prefix LM, Raffel et al. 2020)."""

import numpy as np

from llm_jax.data.corrupt.rows import Texts
from llm_jax.data.features import Fields


def cut(random: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the tokens of each beginning, int64 [B]: of 1 to size - 1 each is as likely, and 0 of shorter texts.

    random: uniform numbers [B].
    """
    ways = np.maximum(sizes - 1, 0)
    return np.where(ways > 0, 1 + np.floor(random * ways).astype(np.int64), 0)


def halves(text: Texts, given: np.ndarray) -> tuple[Texts, Texts]:
    """Return the first `given` [B] tokens of each text, and the others, moved to the beginning."""
    T = text.ids.shape[1]
    first = np.where(np.arange(T) < given[:, None], text.ids, 0)
    at = np.minimum(np.arange(T) + given[:, None], T - 1)
    rest = text.sizes - given
    moved = np.where(np.arange(T) < rest[:, None], np.take_along_axis(text.ids, at, 1), 0)
    return Texts(first.astype(np.int32), given), Texts(moved.astype(np.int32), rest)


def before_targets(fields: Fields) -> np.ndarray:
    """Return which tokens stand before a row's first target with weight, that which predicts it included, bool [B,T].

    fields: weights [B,T], maybe segments; padding is in no prefix.
    """
    counted = fields["weights"] > 0
    before: np.ndarray = np.cumsum(counted, 1) - counted == 0
    return before & (fields["segments"] > 0) if "segments" in fields else before
