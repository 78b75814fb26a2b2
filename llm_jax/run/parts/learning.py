"""How a run learns: a learner of the table, given what it asks for, its workers, and the average of its parameters."""

import inspect
from typing import Any

from llm_jax.core.table import lookup
from llm_jax.core.types import Learner, Model, Objective
from llm_jax.learn import LEARNERS, OUTER
from llm_jax.learn.ema import ema
from llm_jax.learn.local import federated, local
from llm_jax.learn.repeated import repeated


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


def _apart(taught: Learner, section: Any, *, clients: bool) -> Learner:
    given = {"learning_rate": section.learning_rate, "momentum": section.momentum}
    outer = lookup(OUTER, section.name, "local.name")(**{k: v for k, v in given.items() if v is not None})
    if clients:
        return federated(taught, section.workers, section.every, outer)
    return local(
        taught, section.workers, section.every, outer,
        fragments=section.fragments, overlap=section.overlap, mixing=section.kept,
    )  # fmt: skip
