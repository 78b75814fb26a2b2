"""Options of optimizers and schedules: what each accepts, by default what, and within which range."""

import inspect
import math
import re
from collections.abc import Mapping
from typing import Any

from llm_jax.core.table import UserError, choices, lookup, nearest
from llm_jax.optim import OPTIMIZERS

# What a value must be, in the words of the error; a name means the same thing wherever it stands.
ALLOWED = {
    "learning_rate": "a number in [0, inf)",
    "weight_decay": "a number in [0, inf)",
    "clip_norm": "a number in (0, inf) or None",
    "decay_exclude": "a list of regular expressions or None",
    "freeze": "a list of regular expressions",
    "layer_decay": "a number in (0, 1] or None",
    "groups": "regular expressions with a number in [0, inf) each",
    "momentum": "a number in [0, 1)",
    "nesterov": "True or False",
    "b1": "a number in [0, 1)",
    "b2": "a number in [0, 1)",
    "eps": "a number in (0, inf)",
    "initial_accumulator": "a number in [0, inf)",
    "decay_rate": "a number in (0, 1]",
    "clip_threshold": "a number in (0, inf)",
    "min_dim_to_factor": "an integer in [1, inf)",
    "relative_step": "True or False",
    "min_scale": "a number in [0, inf)",
    "ns_steps": "an integer in [1, 100)",
    "consistent_rms": "a number in (0, inf) or None",
    "exclude": "a list of regular expressions",
    "total_steps": "an integer in [1, inf) or None",
    "warmup_steps": "an integer in [0, inf)",
    "decay_steps": "an integer in [0, inf) or None",
    "end_fraction": "a number in [0, 1]",
}


def accepted(name: str, table: Mapping[str, str] = OPTIMIZERS, what: str = "optimizer.name") -> dict[str, Any]:
    """Return {option: default} of the member `name`, in the order of its signature.

    Raises:
        UserError: the table has no such member.
    """
    signature = inspect.signature(lookup(table, name, what))
    return {key: p.default for key, p in signature.parameters.items() if p.default is not p.empty}


def check(name: str, given: Mapping[str, Any], known: Mapping[str, Any], section: str = "optimizer") -> None:
    """Raise UserError for the first of `given` that `name` does not accept, or whose value is not allowed."""
    for key in given:
        if key not in known:
            has = f"accepts {choices(known)}" if known else "accepts no options"
            raise UserError(f"{section}.{key} is not an option of {name!r}, which {has}{nearest(key, known)}")
    check_values(section, **given)


def check_values(section: str = "optimizer", /, **given: Any) -> None:
    """Raise UserError for the first value that is not what `ALLOWED` says of its name."""
    for key, value in given.items():
        if not _allows(ALLOWED[key], value):
            raise UserError(f"{section}.{key}={value!r} must be {ALLOWED[key]}")


def _allows(allowed: str, value: Any) -> bool:
    if value is None:
        return allowed.endswith("or None")
    if isinstance(value, bool):
        return allowed == "True or False"
    if allowed.startswith("regular expressions with"):
        return isinstance(value, Mapping) and all(
            _is_pattern(p) and _allows(_each(allowed), v) for p, v in value.items()
        )
    if allowed.startswith("a list"):
        return isinstance(value, (list, tuple)) and all(_is_pattern(pattern) for pattern in value)
    if allowed.startswith("an integer"):
        return isinstance(value, int) and _inside(value, allowed)
    return allowed.startswith("a number") and isinstance(value, (int, float)) and _inside(value, allowed)


def _each(allowed: str) -> str:
    """What each value of a dictionary must be."""
    return allowed.removeprefix("regular expressions with ").removesuffix(" each")


def _inside(value: float, allowed: str) -> bool:
    """Return whether a finite `value` lies in the interval, such as [0, 1), that stands in `allowed`."""
    opening, low, high, closing = re.findall(r"([\[(])(\S+), (\S+?)([\])])", allowed)[0]
    above = value > float(low) or (opening == "[" and value == float(low))
    below = value < float(high) or (closing == "]" and value == float(high))
    return math.isfinite(value) and above and below


def _is_pattern(pattern: Any) -> bool:
    try:
        re.compile(pattern)
    except (re.error, TypeError):
        return False
    return isinstance(pattern, str)
