"""Texts of which a part is learnt, one a row or side by side."""

import numpy as np

from llm_jax.data.examples.forms import Around
from llm_jax.data.examples.ragged import Ragged
from llm_jax.data.features import Fields
from llm_jax.data.packing import Rows, pack, side_by_side


def blank(seq_len: int) -> Fields:
    """Return the fields of one row, all 0."""
    names = ("tokens", "targets", "segments", "positions")
    fields: Fields = {name: np.zeros((1, seq_len), np.int32) for name in names}
    return fields | {"weights": np.zeros((1, seq_len), np.float32)}


def taught_rows(texts: Ragged, taught: np.ndarray, around: Around, *, alone: bool) -> Rows:
    """Return texts of at most T + 1 ids as rows: each alone, or several side by side that do not see each other.

    Args:
        texts: their ids.
        taught: which of the ids are learnt, bool [N].
        around: T, the padding, and the seed by which texts share rows.
        alone: one a row, in their order.
    """
    start, length = texts.starts[:-1], texts.lengths - 1
    n = len(start)
    single = {"rows": np.arange(n + 1), "start": start, "length": length, "column": np.zeros(n, np.int64)}
    packed = single if alone else pack(start, length, around.seq_len, around.seed)
    return side_by_side(texts.values, packed, around.seq_len, around.pad_id, taught)
