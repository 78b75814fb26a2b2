"""How the rows of a training split come in turn, where that is not each once an epoch: clients and Poisson draws."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from llm_jax.data.documents import Document
from llm_jax.text.shards import Shard


class Turns(Protocol):
    """How the rows of a training split come in turn, other than each once an epoch; see `clients.Rounds`."""

    def order(self, n: np.ndarray, batch_size: int, sizes: np.ndarray, seed: int) -> tuple[np.ndarray, ...]: ...
    def clients(
        self, shards: Sequence[Shard], documents: "Named | None", cache_dir: str | Path | None = None
    ) -> list[Shard]: ...


class Named(Protocol):
    """Documents with names; iterating anew reads anew."""

    @property
    def fingerprint(self) -> str: ...
    def __iter__(self) -> Iterator[Document]: ...
