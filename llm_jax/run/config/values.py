"""A value from a recipe or from the command line, as the field that it is for allows it."""

import ast
import types
import typing
from typing import Any

from llm_jax.core.table import UserError


class Text(str):
    """A value as it was typed on the command line: its type is decided by the field that it is for."""


def convert(value: Any, hint: Any, key: str) -> Any:
    """Return `value` as `hint` allows it; text from the command line is read as a literal where a str is not meant."""
    options = (
        typing.get_args(hint)
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        else (hint,)
    )
    if isinstance(value, Text):
        if str in options and not (value == "None" and type(None) in options):
            return str(value)
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            value = str(value)
    if isinstance(value, dict):
        value = {k: convert(v, Any, f"{key}.{k}") if isinstance(v, Text) else v for k, v in value.items()}
    for option in options:
        if option is Any:
            return value
        kind = typing.get_origin(option) or option
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if kind in (list, tuple) and isinstance(value, list | tuple):
            return list(value)
        if isinstance(value, kind) and not (kind in (int, float) and isinstance(value, bool)):
            return value
    wanted = " or ".join(_KINDS.get(typing.get_origin(o) or o, str(o)) for o in options)
    raise UserError(f"{key}={value!r} must be {wanted}, not {_KINDS.get(type(value), type(value).__name__)}")


_KINDS = {
    int: "an integer", float: "a number", str: "a text", bool: "True or False", dict: "a section", list: "a list",
    type(None): "None",
}  # fmt: skip
