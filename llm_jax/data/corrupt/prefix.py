"""A text cut in two at random: the beginning is given, the rest is to be written (prefix LM, Raffel et al. 2020)."""

import numpy as np

from llm_jax.data.corrupt.rows import Texts


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
