"""Examples of several lengths: how they are kept as flat arrays, and what happens to those that are too long."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llm_jax.core.table import UserError, choices
from llm_jax.data.examples.records import Records

log = logging.getLogger(__name__)

LONG = ("error", "cut", "drop")


class Ragged(NamedTuple):
    """Sequences one after the other: values [N], and where each begins, int64 [n+1]."""

    values: np.ndarray
    starts: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """int64 [n]."""
        return np.diff(self.starts)

    def __getitem__(self, i: int) -> np.ndarray:  # type: ignore[override]  # a sequence, not a field
        return self.values[self.starts[i] : self.starts[i + 1]]

    def padded(self, rows: np.ndarray, width: int, fill: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return (values [B,width] of these rows, cut or filled up, their lengths int64 [B])."""
        sizes = np.minimum(self.lengths[rows], width)
        column = np.arange(width)
        inside = column < sizes[:, None]
        at = np.where(inside, self.starts[:-1][rows][:, None] + column, 0)
        values = self.values[at] if len(self.values) else np.zeros(at.shape, self.values.dtype)
        return np.where(inside, values, fill), sizes


def flat(sequences: Sequence[np.ndarray], dtype: type = np.int32) -> Ragged:
    """Return sequences [n] as one."""
    starts = np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64)
    values = np.concatenate([np.asarray(s, dtype) for s in sequences]) if len(sequences) else np.zeros(0, dtype)
    return Ragged(values, starts)


def check_long(long: str) -> None:
    """Refuse what is not one of `LONG`."""
    if long not in LONG:
        raise UserError(f"data.form.long={long!r} is not known; choose one of: {choices(LONG)}")


def fitting(lengths: np.ndarray, limit: int, long: str, records: Records, what: str) -> np.ndarray:
    """Return the numbers of the examples that are used, int64 [m]; with "cut" all are, and the caller cuts them.

    Args:
        lengths: tokens of each example, int64 [n].
        limit: how many there may be.
        long: what becomes of longer ones, one of `LONG`; how many are cut or dropped is said.
        records: the examples, for their names.
        what: the key that sets the limit, such as "data.seq_len".

    Raises:
        UserError: an example is too long and that is to be an error, or none is left.
    """
    over = np.flatnonzero(lengths > limit)
    if not len(over):
        return np.arange(len(lengths))
    if long == "error":
        raise UserError(
            f"{records[int(over[0])].name}: {lengths[over[0]]} tokens are more than {what}={limit} "
            f"({len(over)} of {len(lengths)} examples are longer, the longest has {lengths.max()}); "
            "raise it, or say what is to become of them: data.form.long='cut' or 'drop'"
        )
    log.warning("%d of %d examples are longer than %s=%d: %s", len(over), len(lengths), what, limit,
                "cut" if long == "cut" else "left out")  # fmt: skip
    if long == "cut":
        return np.arange(len(lengths))
    if len(over) == len(lengths):
        raise UserError(f"every example is longer than {what}={limit}, the shortest has {lengths.min()}; raise it")
    return np.flatnonzero(lengths <= limit)
