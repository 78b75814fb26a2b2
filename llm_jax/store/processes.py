"""Agreement between the processes of one run; with a single process each function is the identity."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np

from llm_jax.store.manifest import CorruptCheckpointError

PATIENCE = 1200  # seconds that processes wait for each other's part of a save


def barrier(name: str) -> None:
    """Wait for all processes, from any thread: no device takes part, so that training goes on meanwhile."""
    if jax.process_count() > 1:
        import orbax.checkpoint as ocp

        ocp.multihost.get_barrier_sync_fn()(key=name, timeout_ms=PATIENCE * 1000)


def added(sums: dict[str, int]) -> dict[str, int]:
    """Add up what all processes hold under the same names, modulo 2^64. Called by all at once, in their main thread."""
    if jax.process_count() == 1:
        return sums
    halves = np.array([[value & 0xFFFFFFFF, value >> 32] for value in sums.values()], np.uint32)
    totals = _gathered(halves).astype(object).sum(axis=0)
    return {name: int(low + (high << 32)) % 2**64 for name, (low, high) in zip(sums, totals, strict=True)}


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Fail in every process where one fails. Entered by all at once, in their main thread.

    Raises:
        CorruptCheckpointError: what failed, failed in another process.
    """
    done = False
    try:
        yield
        done = True
    finally:
        agreed = jax.process_count() == 1 or bool(_gathered(np.array(done)).all())
    if not agreed:
        raise CorruptCheckpointError("another process could not read it")


def _gathered(value: np.ndarray) -> np.ndarray:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(value))
