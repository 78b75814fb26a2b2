"""From rows of tokens to the fields that a model reads.

An objective that hides or moves tokens does that here, by a `Transform` of its own: an objective with
`transform(words, seq_len, seed) -> Transform`, and `extra_tokens`, the number of ids that it needs after the
tokenizer's (masks, sentinels).
"""

from collections.abc import Callable

import numpy as np

Fields = dict[str, np.ndarray]

# (fields [B,T] of packed rows, numbers int64 [B] of the examples) -> fields of the batch, of one shape for all.
# In training no number comes twice, in evaluation a row has always the same: (seed, number) decides all.
# Rows without any weight stay without.
Transform = Callable[[Fields, np.ndarray], Fields]


def next_token(window: np.ndarray) -> Fields:
    """Return tokens and targets, int32 [B,T], of windows [B,T+1]: each position predicts the next."""
    window = window.astype(np.int32)
    return {"tokens": window[:, :-1].copy(), "targets": window[:, 1:].copy()}


def raw_bytes(fields: Fields, token_bytes: np.ndarray) -> np.ndarray:
    """Return int32 [B,T]: the raw UTF-8 bytes that each target stands for, 0 where its weight is 0.

    Ids after the tokenizer's stand for none.
    """
    counts = np.append(token_bytes, np.int32(0))[np.minimum(fields["targets"], len(token_bytes))]
    return counts if "weights" not in fields else np.where(fields["weights"] > 0, counts, 0).astype(np.int32)
