"""Work lost to failures, and how often to save (Young 1974; Daly 2006).

Chips fail independently and at a constant rate, so that a job on N of them fails N times as often as one. Times are in
hours; `save` is the time in which training stands still for a checkpoint, `restart` from a failure to the next step.
"""

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Loss:
    """mtbf: hours between failures of the whole job. interval: hours between checkpoints. lost: share of the time."""

    mtbf: float
    interval: float
    lost: float
    per_failure: float

    @property
    def goodput(self) -> float:
        """The share of the time that is kept."""
        return 1 - self.lost


def best_interval(save: float, mtbf: float) -> float:
    """Hours of work between checkpoints that lose least: Daly's higher-order form of √(2 · save · mtbf)."""
    if save >= 2 * mtbf:
        return mtbf
    x = save / (2 * mtbf)
    return math.sqrt(2 * save * mtbf) * (1 + math.sqrt(x) / 3 + x / 9) - save


def stretch(interval: float, save: float, restart: float, mtbf: float) -> float:
    """Hours of wall time for an hour of work: Daly's complete model, exact for exponential failures."""
    return mtbf / interval * math.exp(restart / mtbf) * (math.exp((interval + save) / mtbf) - 1)


def expected(chips: int, chip_mtbf: float, save: float, restart: float, interval: float | None = None) -> Loss:
    """Return what a job of `chips` loses, saving each `interval` hours (None: the best)."""
    mtbf = chip_mtbf / chips
    every = best_interval(save, mtbf) if interval is None else interval
    lost = 1 - 1 / stretch(every, save, restart, mtbf)
    return Loss(mtbf, every, lost, every / 2 + restart)


def simulated(interval: float, save: float, restart: float, mtbf: float, *, failures: int, seed: int = 0) -> float:
    """Return hours of wall time for an hour of work, from a run with so many drawn failures."""
    draw = random.Random(seed)
    wall = work = 0.0
    next_failure, seen = draw.expovariate(1 / mtbf), 0
    while seen < failures:
        left = interval + save
        if next_failure > left:
            next_failure -= left
            wall, work = wall + left, work + interval
            continue
        wall, seen = wall + next_failure, seen + 1
        next_failure = draw.expovariate(1 / mtbf)
        while next_failure < restart:  # it may fail again while it starts
            wall, seen = wall + next_failure, seen + 1
            next_failure = draw.expovariate(1 / mtbf)
        wall, next_failure = wall + restart, next_failure - restart
    return wall / work
