"""Tables: literal dictionaries from a name to "module:attribute", imported when first asked for.

A table is the index that a newcomer reads; nothing registers itself and importing has no effect.
"""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any


class UserError(ValueError):
    """The user's input is wrong: one message that names the culprit, the value and the way out (exit code 2)."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the closest of `known`, or "" when none is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def choices(known: Iterable[str]) -> str:
    """Return the sorted names as one readable list."""
    return ", ".join(sorted(known))


def lookup(table: Mapping[str, str], name: str, what: str) -> Any:
    """Import and return the member of `table` called `name`.

    Args:
        table: name -> "module:attribute".
        name: the wanted member.
        what: how to call the key in an error, such as "model.name".

    Raises:
        UserError: when the table has no such name; the message lists the table and the nearest spelling.
    """
    if name not in table:
        raise UserError(f"{what}={name!r} is not known; choose one of: {choices(table)}{nearest(str(name), table)}")
    module, _, attribute = table[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
