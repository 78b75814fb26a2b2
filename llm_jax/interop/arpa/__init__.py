"""N-gram models as ARPA files, which KenLM, SRILM and others read and write; the words of ours are the ids of tokens.

An interpolated model is the same as one that backs off: of an n-gram that was seen stands its whole probability, and
of a context what it gives to the lower orders (Chen & Goodman 1999, §2.8).
"""

from typing import NamedTuple

import numpy as np

MARKERS = ("<s>", "</s>", "<unk>")
NEVER = -99.0  # log10 of a probability of zero


class Order(NamedTuple):
    """The n-grams of one order, and what a file says of each.

    tokens: int32 [N,order]. log_p: log10 of their probabilities, [N]. backoff: log10 of what each gives as a context
    to the lower orders, [N].
    """

    tokens: np.ndarray
    log_p: np.ndarray
    backoff: np.ndarray


def keys(tokens: np.ndarray) -> np.ndarray:
    """Return one byte string a row of [N,order], in the same order as the rows."""
    wide = np.ascontiguousarray(tokens.astype(">u4"))
    return wide.view(f"S{4 * tokens.shape[1]}")[:, 0] if tokens.shape[1] else np.zeros(len(tokens), "S1")
