"""Several tasks on one model: the mean over the targets of all, those of each task counted by its weight."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from llm_jax.core.table import UserError, choices, lookup, nearest
from llm_jax.core.types import Batch, Key, Mean, Model, Objective, Params, Stats
from llm_jax.data.features import Fields, Transform
from llm_jax.objectives import OBJECTIVES
from llm_jax.text.base import Tokenizer


@dataclass(frozen=True)
class Several:
    """The section `objective`.

    tasks: a list of {"name", "weight" (1), and the options of that objective}. Every task reads every row. The
    fields of the first stand in the batch as they are, so that it is what evaluation reads, and prompts are read as it
    reads them; those of task i are called "i/FIELD". Ids that a task adds come after those of the tasks before it.
    """

    tasks: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UserError('objective.tasks is empty; give a list such as [{"name": "span"}, {"name": "prefix"}]')
        self._members()

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objective of each task."""
        return tuple(objective for _, _, objective in self._members())

    @property
    def extra_tokens(self) -> int:
        """The ids that all tasks add."""
        return sum(map(_extra, self.objectives))

    @property
    def bidirectional(self) -> bool:
        """Whether the first task reads prefixes, and so prompts, in both directions."""
        return bool(getattr(self.objectives[0], "bidirectional", False))

    def transform(self, words: Tokenizer, seq_len: int, seed: int) -> Transform:
        """Return what makes the fields of every task of each row."""
        made: list[Callable[[Fields, np.ndarray], Fields]] = []
        for objective in self.objectives:
            transform = getattr(objective, "transform", None)
            made.append(transform(words, seq_len, seed) if transform else lambda given, numbers: given)
            words = replace(words, vocabulary=[*words.vocabulary, *[b""] * _extra(objective)])

        def reshaped(given: Fields, numbers: np.ndarray) -> Fields:
            first, *rest = (transform(given, numbers) for transform in made)
            return first | {f"{i}/{name}": v for i, part in enumerate(rest, 1) for name, v in part.items()}

        return reshaped

    def fits(self, model: Model) -> None:
        """Refuse a model that does not fit a task."""
        for objective in self.objectives:
            if (fits := getattr(objective, "fits", None)) is not None:
                fits(model)

    def __call__(self, model: Model, params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Stats]:
        """Return the loss to descend; `loss` is that of the first task, and NAME/STATISTIC those of each.

        Raises:
            UserError: the model does not fit a task.
        """
        total = Mean(0.0, 0.0)
        stats: Stats = {}
        for i, (name, weight, objective) in enumerate(self._members()):
            loss, found = objective(model, params, _own(batch, i), key)
            total = total + Mean(weight * loss.total, weight * loss.weight)
            stats |= {f"{name}/{statistic}": value for statistic, value in found.items()}
            stats |= {} if i else {"loss": found["loss"]}
        return total, stats

    def _members(self) -> list[tuple[str, float, Objective]]:
        """(name, weight, objective) of each task; the second of one name is called NAME.2 and so on."""
        return [self._member(i, task) for i, task in enumerate(self.tasks)]

    def _member(self, i: int, task: Any) -> tuple[str, float, Objective]:
        where = f"objective.tasks[{i}]"
        if not isinstance(task, dict) or "name" not in task:
            raise UserError(f'{where}={task!r} must be a section with a name, such as {{"name": "span"}}')
        options = dict(task)
        name, weight = options.pop("name"), options.pop("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise UserError(f"{where}.weight={weight!r} must be a positive finite number")
        member = lookup(OBJECTIVES, name, f"{where}.name")
        if member is Several:
            raise UserError(f"{where}.name={name!r}: put the tasks of that list into this one")
        known = [field.name for field in fields(member)]
        for option in options:
            if option not in known:
                raise UserError(
                    f"{where}.{option} is not a key; {name} accepts {choices(known)}{nearest(option, known)}"
                )
        same = sum(earlier.get("name") == name for earlier in self.tasks[:i])
        return f"{name}.{same + 1}" if same else name, float(weight), member(**options)


def _extra(objective: Objective) -> int:
    return int(getattr(objective, "extra_tokens", 0))


def _own(batch: Batch, i: int) -> Batch:
    """The fields of task i; a batch without any for it is read by every task alike."""
    if f"{i}/tokens" not in batch:
        return {name: value for name, value in batch.items() if "/" not in name}
    return {name.split("/", 1)[1]: value for name, value in batch.items() if name.startswith(f"{i}/")}
