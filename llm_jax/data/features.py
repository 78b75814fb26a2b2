"""From rows of tokens to the fields that a model reads."""

import numpy as np

Fields = dict[str, np.ndarray]


def next_token(window: np.ndarray) -> Fields:
    """Return tokens and targets, int32 [B,T], of windows [B,T+1]: each position predicts the next."""
    window = window.astype(np.int32)
    return {"tokens": window[:, :-1].copy(), "targets": window[:, 1:].copy()}


def raw_bytes(fields: Fields, token_bytes: np.ndarray) -> np.ndarray:
    """Return int32 [B,T]: the raw UTF-8 bytes that each target stands for, 0 where its weight is 0."""
    counts = token_bytes[fields["targets"]]
    return counts if "weights" not in fields else np.where(fields["weights"] > 0, counts, 0).astype(np.int32)
