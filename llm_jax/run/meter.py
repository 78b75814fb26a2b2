"""Statistics of steps as sums between two rows of the log, and the pace of training."""

import time
from collections.abc import Callable, Mapping

import numpy as np

from llm_jax.core.types import Mean, Stats
from llm_jax.mesh import hosts


class Meter:
    """Sums statistics between two rows of the log, and measures the pace; times are of wall clocks, in seconds."""

    def __init__(self, sums: Mapping[str, tuple[float, float]]):
        self._sums = {name: Mean(*pair) for name, pair in sums.items()}
        self._since: float | None = None
        self._steps = 0

    def add(self, stats: Stats) -> None:
        """Add a step, waiting until it is done. The first one, mostly compiling, has no part in the pace."""
        for name, mean in hosts.here(stats).items():
            new = Mean(float(np.sum(mean.total)), float(np.sum(mean.weight)))  # over workers, where they learn apart
            old = self._sums.get(name)
            self._sums[name] = new if old is None else _add(old, new)
        self._steps += self._since is not None
        self._since = self._since or time.perf_counter()

    @property
    def sums(self) -> dict[str, Mean]:
        """What was added since the last row: a checkpoint keeps it, so that a resumed run writes the same rows."""
        return dict(self._sums)  # a copy: saves are written later

    def take(self) -> tuple[dict[str, float], float, float | None]:
        """Return (means, tokens counted, seconds a step, None when not known) since the last call; start anew."""
        now = time.perf_counter()
        means = {name: m.total / m.weight if m.weight else 0.0 for name, m in self._sums.items()}
        tokens = self._sums["loss"].weight if "loss" in self._sums else 0.0
        pace = (now - (self._since or now)) / self._steps if self._steps else None
        self._sums, self._since, self._steps = {}, now, 0
        return means, tokens, pace

    def pause(self) -> Callable[[], None]:
        """Leave the time until the returned function is called out of the pace (evaluation, sampling)."""
        began = time.perf_counter()

        def go_on() -> None:
            if self._since is not None:
                self._since += time.perf_counter() - began

        return go_on


def _add(old: Mean, new: Mean) -> Mean:
    return Mean(old.total + new.total, old.weight + new.weight)
