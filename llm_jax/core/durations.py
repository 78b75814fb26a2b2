"""Lengths of training in one field: "2000 steps", "1.2B tokens", "3 epochs", "150 s".

A duration is a number and a unit; only `steps` turns it into the loop's own unit.
"""

import math
import re
from dataclasses import dataclass

from llm_jax.core.table import UserError

UNITS = {
    "step": "steps", "steps": "steps",
    "token": "tokens", "tokens": "tokens",
    "epoch": "epochs", "epochs": "epochs",
    "example": "examples", "examples": "examples",
    "s": "s", "sec": "s", "seconds": "s", "min": "min", "minutes": "min", "h": "h", "hours": "h",
}  # fmt: skip
MULTIPLIERS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Duration:
    """A length: `value` in `unit` (steps, tokens, epochs, examples, s, min, h)."""

    value: float
    unit: str

    @property
    def seconds(self) -> float | None:
        """The wall time that it allows, or None when it is counted in something else."""
        return self.value * SECONDS[self.unit] if self.unit in SECONDS else None

    def steps(
        self, *, tokens_per_step: int, examples_per_step: int, examples_per_epoch: int | None = None
    ) -> int | None:
        """Return the number of steps, rounded up; None for wall time.

        Raises:
            UserError: epochs were asked for and the length of an epoch is not known.
        """
        if self.unit in SECONDS:
            return None
        if self.unit == "epochs" and examples_per_epoch is None:
            raise UserError(f"a duration of '{self}' needs data of known length; use steps or tokens")
        per_step = {
            "steps": 1.0,
            "tokens": float(tokens_per_step),
            "examples": float(examples_per_step),
            "epochs": examples_per_step / (examples_per_epoch or 1),
        }[self.unit]
        return max(1, math.ceil(self.value / per_step - 1e-9))

    def __str__(self) -> str:
        return f"{self.value:,.0f} {self.unit}" if self.value.is_integer() else f"{self.value:g} {self.unit}"


def parse(text: str, what: str = "train.duration") -> Duration:
    """Read a duration such as "2000 steps" or "1.2B tokens".

    Raises:
        UserError: when it is not a positive finite number with a known unit; the message names `what`.
    """
    match = re.fullmatch(r"\s*([0-9][0-9_,]*\.?[0-9]*(?:e[0-9]+)?)\s*([kKMBT]?)\s*([a-z]+)\s*", str(text))
    if not match or match[3] not in UNITS:
        raise UserError(
            f"{what}={text!r} is not a duration; write it as '2000 steps', '1.2B tokens', '3 epochs' or '150 s'"
        )
    value = float(re.sub("[_,]", "", match[1])) * MULTIPLIERS[match[2]]
    if not (0 < value < math.inf):
        raise UserError(f"{what}={text!r} must be above zero")
    return Duration(value, UNITS[match[3]])
