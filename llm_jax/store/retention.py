"""Which checkpoints stay: the last few, every so many steps for ever, and the best by a metric."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from llm_jax.core.table import UserError


@dataclass(frozen=True)
class Keep:
    """What to keep.

    last: the newest n (at least 1; 2 or more leave something to go back to when the newest is damaged).
    every: also every step that is a multiple of this, for ever.
    best: also the step with the best value of this metric.
    mode: whether "min" or "max" is best.
    """

    last: int = 3
    every: int | None = None
    best: str | None = None
    mode: str = "min"

    def __post_init__(self) -> None:
        if self.last < 1:
            raise UserError(f"checkpoint.keep.last={self.last} must be 1 or more")
        if self.every is not None and self.every < 1:
            raise UserError(f"checkpoint.keep.every={self.every} must be 1 or more, or None")
        if self.mode not in ("min", "max"):
            raise UserError(f"checkpoint.keep.mode={self.mode!r} must be 'min' or 'max'")


def best(metrics: Mapping[int, Mapping[str, float]], keep: Keep) -> int | None:
    """Return the step whose `keep.best` is best (the earliest of equals); None where no step has a finite one."""
    sign = 1 if keep.mode == "min" else -1
    name = keep.best
    scored = [(sign * m[name], s) for s, m in metrics.items() if name and math.isfinite(m.get(name, math.nan))]
    return min(scored)[1] if scored else None


def kept(metrics: Mapping[int, Mapping[str, float]], keep: Keep) -> set[int]:
    """Return which of the steps (with the metrics that each was saved with) stay."""
    forever = {step for step in metrics if keep.every and step % keep.every == 0}
    champion = best(metrics, keep)
    return {*sorted(metrics)[-keep.last :], *forever, *([] if champion is None else [champion])}
