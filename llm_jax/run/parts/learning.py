"""How a run learns: a learner of the table, given what it asks for, its workers, and the average of its parameters."""

import inspect
from dataclasses import dataclass, fields
from typing import Any

from llm_jax.core import checks
from llm_jax.core.table import UserError, choices, lookup
from llm_jax.core.types import Learner, Model, Objective
from llm_jax.learn import LEARNERS, OUTER
from llm_jax.learn.ema import ema
from llm_jax.learn.local import federated, local
from llm_jax.learn.repeated import repeated


@dataclass(frozen=True)
class Local:
    """Workers that learn apart and meet now and then (`learn.local`), on the mesh axes of the logical axis `worker`.

    name: a key of learn.OUTER, or "none". workers: into how many the rows of a batch are shared; with `data.clients`
    the clients of a round. every: steps from one meeting to the next. learning_rate, momentum: of the outer optimizer,
    None for its own. fragments: of the layers, which meet in turn. overlap: steps from a mean to its use. mixing: the
    share of its own parameters that a worker keeps there, None for 0 without overlap and 0.5 with it.
    """

    name: str = "none"
    workers: int = 1
    every: int = 1
    learning_rate: float | None = None
    momentum: float | None = None
    fragments: int = 1
    overlap: int = 0
    mixing: float | None = None

    def __post_init__(self) -> None:
        checks.positive("local", workers=self.workers, every=self.every, fragments=self.fragments)
        checks.non_negative("local", overlap=self.overlap, learning_rate=self.learning_rate)
        checks.fraction("local", mixing=self.mixing, momentum=self.momentum)
        given = [f.name for f in fields(self) if f.name != "name" and getattr(self, f.name) != f.default]
        if self.name == "none" and given:
            value = getattr(self, given[0])
            raise UserError(f"local.{given[0]}={value!r} needs local.name, one of: {choices(OUTER)}")
        if self.fragments > self.every:
            raise UserError(
                f"local.fragments={self.fragments} cannot meet in turn within local.every={self.every} steps; "
                f"try local.fragments={self.every}"
            )
        if self.overlap >= self.every:
            raise UserError(
                f"local.overlap={self.overlap} must be below local.every={self.every}: "
                "a mean is used before the next one is made"
            )

    @property
    def kept(self) -> float:
        """The share of its own parameters that a worker keeps."""
        return self.mixing if self.mixing is not None else 0.5 if self.overlap else 0.0


def learner(parts: Any, objective: Objective, built: Model, transform: Any) -> Learner:
    """Return the learner of a run.

    Args:
        parts: its sections.
        objective, built, transform: its objective, model and optimizer.
    """
    make = lookup(LEARNERS, parts.train.learner, "train.learner")
    known = {
        "microbatches": parts.train.microbatches, "batch_size": parts.data.batch_size, "expected": parts.data.poisson,
        "clip_norm": parts.private.clip_norm, "noise": parts.private.noise,
    }  # fmt: skip
    asked = inspect.signature(make).parameters
    taught: Learner = make(built, objective, transform, **{k: v for k, v in known.items() if k in asked})
    if (often := getattr(objective, "updates", 1)) > 1:
        taught = repeated(taught, often)
    if parts.local.name != "none":
        taught = _apart(taught, parts.local, clients=parts.data.federated)
    return taught if parts.train.ema is None else ema(taught, parts.train.ema)


def _apart(taught: Learner, section: Local, *, clients: bool) -> Learner:
    given = {"learning_rate": section.learning_rate, "momentum": section.momentum}
    outer = lookup(OUTER, section.name, "local.name")(**{k: v for k, v in given.items() if v is not None})
    if clients:
        return federated(taught, section.workers, section.every, outer)
    return local(
        taught, section.workers, section.every, outer,
        fragments=section.fragments, overlap=section.overlap, mixing=section.kept,
    )  # fmt: skip
