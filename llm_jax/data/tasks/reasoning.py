"""Items of the tasks of `reasoning-gym`, made by its own generators, and scored by them.

Stojanovski et al. 2025, "Reasoning Gym", arXiv:2505.24760. Item i of a data set of seed s is drawn with seed s + i, so
that the seeds of what is held out begin far away from those of training.
"""

from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

from llm_jax.core.table import UserError, choices, nearest
from llm_jax.data.examples.records import Record, Records
from llm_jax.text.cache import key

SIZE, HELD_OUT = 1000, 200  # items, where the options say nothing
APART = 1 << 31  # between the seeds of training and those of what is held out
INSTALL = "pip install -r requirements-reasoning.txt"


def reasoning(
    *,
    split: str,
    task: str,
    options: dict | None = None,
    size: int = SIZE,
    held_out: int = HELD_OUT,
    seed: int = 0,
) -> Records | None:
    """Items of one task: records {question, answer, seed, index}.

    Questions that are held out are left out of the training split, which may so be smaller.

    Args:
        split: "train" or "validation".
        task: its name in reasoning-gym, such as "chain_sum".
        options: those of the task, such as {"max_terms": 2}.
        size: items drawn for training.
        held_out: items of the validation split, 0 for none.
        seed: of the first item.

    Raises:
        UserError: reasoning-gym is missing, it has no such task, or the task refuses its options.
    """
    for name, value, least in (("size", size, 1), ("held_out", held_out, 0), ("seed", seed, 0)):
        if not least <= value < APART // 2:
            raise UserError(f"data.options.{name}={value!r} must be from {least} to {APART // 2 - 1}")
    gym = installed()
    opened(task, options, 1, seed)
    if split == "validation" and not held_out:
        return None

    def items(count: int, first: int) -> list[Record]:
        found = opened(task, options, count, first)
        made = []
        for index in range(count):
            name = f"reasoning-gym {task}, seed {first}, item {index}"
            entry = _made(found, index, name)
            made.append(Record(_values(entry, first, index), name))
        return made

    def read() -> list[Record]:
        judged = items(held_out, seed + APART) if held_out else []
        if split == "validation":
            return judged
        known = {record.values["question"] for record in judged}
        return [record for record in items(size, seed) if record.values["question"] not in known]

    return Records(key("reasoning", gym, task, dict(options or {}), size, held_out, seed, split, version=1), read)


def scorer(options: Mapping[str, Any]) -> Callable[[str, Record], float]:
    """Return (answer, record) -> what the task itself gives for the answer, from 0 to 1.

    Args:
        options: those of the source `reasoning`, `data.options`.
    """
    task, own = options["task"], options.get("options")
    sizes = max(options.get("size", SIZE), options.get("held_out", HELD_OUT))

    @cache
    def items(seed: int) -> Any:
        return opened(task, own, sizes, seed)

    def score(answer: str, record: Record) -> float:
        found = items(record.values["seed"])
        return float(found.score_answer(answer, found[record.values["index"]]))

    return score


def installed() -> str:
    """Return the version of reasoning-gym.

    Raises:
        UserError: it is not installed.
    """
    try:
        import reasoning_gym  # noqa: F401
    except ImportError as error:
        raise UserError(f'data.source="reasoning" needs {error.name}, which is not installed: {INSTALL}') from None
    return version("reasoning-gym")


def opened(task: str, options: Mapping[str, Any] | None, size: int, seed: int) -> Any:
    """Return the data set of a task.

    Raises:
        UserError: there is no such task, or it refuses its options.
    """
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if task not in DATASETS:
        raise UserError(
            f"data.options.task={task!r} is no task of reasoning-gym; choose one of: {choices(DATASETS)}"
            f"{nearest(str(task), DATASETS)}"
        )
    try:
        return reasoning_gym.create_dataset(task, size=size, seed=seed, **(options or {}))
    except Exception as error:  # whatever a task raises about its options, asserts among it
        raise UserError(
            f"data.options.options={dict(options or {})} are not what the task {task!r} takes: {error}"
        ) from None


def _made(items: Any, index: int, name: str) -> Any:
    try:
        return items[index]
    except Exception as error:
        raise UserError(f"{name} cannot be made: {type(error).__name__}: {error}; change data.options") from error


def _values(entry: Mapping[str, Any], seed: int, index: int) -> dict[str, Any]:
    return {"question": entry["question"], "answer": str(entry["answer"]), "seed": seed, "index": index}
