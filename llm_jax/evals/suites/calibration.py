"""Whether what is said with confidence p is right p of the time (Guo et al. 2017, §2)."""

import numpy as np

BINS = 15  # as in their tables


def bin_of(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Return the bin of each confidence in [0, 1]: of equal width, each without its lower end, the first with it."""
    return np.clip(np.ceil(np.asarray(confidence, np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)


def binned(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Return float64 [N,M,3], of each judgement in its bin: 1, the confidence, and 1 where it is right."""
    columns = np.column_stack([np.ones(len(confidence)), confidence, correct])
    out = np.zeros((len(columns), bins, 3))
    out[np.arange(len(columns)), bin_of(confidence, bins)] = columns
    return out


def expected_error(rows: np.ndarray) -> float:
    """Return Σ over bins of |B| / n · |accuracy(B) - confidence(B)| of `binned` rows [N,M,3], or sums of them."""
    weight, confidence, correct = rows.sum(axis=0).T
    return float(np.abs(correct - confidence).sum() / weight.sum())
