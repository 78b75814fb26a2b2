"""Options by name: the keyword parameters of a function are the accepted keys, its annotations the accepted types."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from llm_jax.core.table import UserError, choices, nearest


def accepted(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the keyword-only parameters of `function`, which are its options."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def check(function: Callable[..., Any], options: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return `options` as a dictionary that `function(**options)` accepts; None values are left to the defaults.

    Args:
        function: its keyword-only parameters with annotations are the options.
        options: name -> value, from the user.
        what: how to call the section in an error, such as "data.options".

    Raises:
        UserError: unknown option (the message lists the accepted ones and the nearest spelling), a missing one, or
            one of the wrong type.
    """
    known = accepted(function)
    for name in options:
        if name not in known:
            raise UserError(
                f"{what}.{name} is not an option here; accepted: {choices(known) or 'none'}{nearest(str(name), known)}"
            )
    given = {name: value for name, value in options.items() if value is not None}
    missing = [n for n, p in known.items() if p.default is inspect.Parameter.empty and n not in given]
    if missing:
        raise UserError(f"{what}.{missing[0]} is required; accepted options: {choices(known)}")
    hints = typing.get_type_hints(function)
    return {name: _typed(value, hints.get(name, Any), f"{what}.{name}") for name, value in given.items()}


def _typed(value: Any, hint: Any, what: str) -> Any:
    """Return `value` if it is of the annotated type; an int passes for a float, True never for an int."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if Any in kinds:
        return value
    plain = tuple(typing.get_origin(kind) or kind for kind in kinds)
    if isinstance(value, int) and not isinstance(value, bool) and float in plain:
        return value
    if not isinstance(value, plain) or (isinstance(value, bool) and bool not in plain):
        wanted = " or ".join(getattr(kind, "__name__", str(kind)) for kind in plain if kind is not types.NoneType)
        raise UserError(f"{what}={value!r} is of type {type(value).__name__}; it must be {wanted}")
    return value
