"""Private training: how much noise, and what counts its promise."""

from dataclasses import dataclass
from typing import Any

from llm_jax.core import checks
from llm_jax.core.table import UserError
from llm_jax.learn.accountant import Accountant


@dataclass(frozen=True)
class Private:
    """How train.learner=private learns (`learn.private`), and for which delta its epsilon is told.

    clip_norm: the length of a row's gradient at most. noise: its standard deviation, in units of that.
    """

    clip_norm: float = 1.0
    noise: float = 1.0
    delta: float = 1e-5

    def __post_init__(self) -> None:
        checks.positive("private", clip_norm=self.clip_norm, noise=self.noise, delta=self.delta)
        checks.fraction("private", delta=self.delta)


def accountant(section: Private, train: Any, data: Any, rows: int, steps: int | None) -> Accountant | None:
    """Return what counts the privacy of a run of so many rows and steps; None for a run without any.

    Args:
        section: how much noise.
        train, data: the sections `train` and `data`.
        rows: of the training split.
        steps: None for a length in seconds, where the promise is counted as it goes.

    Raises:
        UserError: the run would promise nothing.
    """
    if train.learner != "private" or data.poisson is None:
        return None
    if data.poisson > rows:
        raise UserError(f"data.poisson={data.poisson:g} is more than the {rows} rows of the data")
    found = Accountant(data.poisson / rows, section.noise, section.delta, rows, data.batch_size)
    found.check(steps or 1)
    return found
