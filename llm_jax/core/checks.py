"""Ranges of numbers that a user gives, checked where they enter; each error names the key and its value."""

import math
import re
from typing import Any

from llm_jax.core.table import UserError


def _refuse(section: str, name: str, value: Any, must: str) -> None:
    raise UserError(f"{section}.{name}={value!r} must be {must}")


LARGEST = (1 << 31) - 1  # of a whole number: sizes and indices are int32 on devices


def positive(section: str, **values: float | None) -> None:
    """Refuse anything that is not above zero and finite, or too large a size; None means "derived" and passes."""
    for name, value in values.items():
        if value is not None and not (0 < value < math.inf):
            _refuse(section, name, value, "above zero")
        if isinstance(value, int) and value > LARGEST:
            _refuse(section, name, value, f"at most {LARGEST}")


def non_negative(section: str, **values: float | None) -> None:
    """Refuse negative, infinite and NaN values; None passes."""
    for name, value in values.items():
        if value is not None and not (0 <= value < math.inf):
            _refuse(section, name, value, "zero or above")


def fraction(section: str, **values: float | None) -> None:
    """Refuse what is not in [0, 1); None passes."""
    for name, value in values.items():
        if value is not None and not (0 <= value < 1):
            _refuse(section, name, value, "at least 0 and below 1")


def pattern(key: str, value: Any) -> None:
    """Refuse what is not a regular expression.

    Raises:
        UserError: names the key, the value and what is wrong with it.
    """
    try:
        re.compile(value)
    except (re.error, TypeError) as error:
        raise UserError(f"{key}: {value!r} is not a regular expression: {error}") from None


def divides(section: str, divisor: str, value: int, whole: str, total: int) -> None:
    """Refuse a `value` that does not divide `total`, and name those that do."""
    if total % value:
        fitting = [d for d in range(1, total + 1) if total % d == 0]
        near = sorted(fitting, key=lambda d: abs(d - value))[:4]
        raise UserError(
            f"{section}.{divisor}={value} does not divide {section}.{whole}={total}; try one of {sorted(near)}"
        )


def even(section: str, **values: int) -> None:
    """Refuse an odd number of dimensions that rotary positions would turn in pairs."""
    for name, value in values.items():
        if value % 2:
            _refuse(section, name, value, "even: rotary positions turn pairs of dimensions")


def nearest_multiple(value: int, unit: int) -> int:
    """Return the multiple of `unit`, above zero, that is nearest to `value`: what to try instead."""
    return max(1, round(value / unit)) * unit
