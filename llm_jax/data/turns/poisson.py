"""Poisson sampling: every row is in a batch or not by a draw of its own, so that batches differ in size.

It is what the accounting of private training assumes (`learn.accountant`). A batch has room for a fixed number of
rows; those that are not taken have weight 0, and rows beyond the room are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_jax.data.order import uniform
from llm_jax.text.shards import Shard

DRAWS = 1 << 49  # what the random numbers are for


@dataclass(frozen=True)
class Poisson:
    """expected: rows of a batch on average. Rows are cut once, without a phase that changes: each has one identity."""

    expected: float

    def order(self, n: np.ndarray, batch_size: int, sizes: np.ndarray, seed: int) -> tuple[np.ndarray, ...]:
        """Return (component, row, epoch, taken) of examples n, int64 [n] and bool [n]; `sizes` are rows of components.

        A step takes each of all rows with probability expected / rows, whatever other steps took.
        """
        ends = np.cumsum(sizes)
        step, place = n // batch_size, n % batch_size
        chosen, taken = np.zeros_like(n), np.zeros(len(n), bool)
        for s in np.unique(step):
            picked = np.flatnonzero(uniform(seed, DRAWS, np.array([s]), int(ends[-1]))[0] < self.expected / ends[-1])
            at = np.flatnonzero(step == s)
            at = at[place[at] < len(picked)]
            chosen[at], taken[at] = picked[place[at]], True
        component = np.searchsorted(ends, chosen, side="right")
        return component, chosen - (ends - sizes)[component], np.zeros_like(n), taken

    def clients(self, shards: Sequence[Shard], documents: Any, cache_dir: str | Path | None = None) -> list[Shard]:
        """Return the shards as they are: rows are sampled from all of them alike."""
        return list(shards)
