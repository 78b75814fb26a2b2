"""A recipe: a Python file with `get_config(arg) -> ml_collections.ConfigDict`."""

import importlib.util
import inspect
import traceback
import typing
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from llm_jax.core.table import UserError, choices, nearest


def load_recipe(reference: str) -> dict[str, Any]:
    """Return the nested dictionary of a recipe "path/to/file.py" or "path/to/file.py:argument".

    An argument of type `Literal["a", "b"]` is one of these.

    Raises:
        UserError: no such file, no `get_config`, or an argument that it does not take; what the recipe raises.
    """
    path, _, argument = reference.partition(":")
    file = Path(path)
    if not file.is_file():
        raise UserError(f"--config={path} is not there{_similar(file)}")
    spec = importlib.util.spec_from_file_location(f"recipe_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"--config={path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    _running(reference, partial(spec.loader.exec_module, module))
    if not callable(getattr(module, "get_config", None)):
        raise UserError(f"--config={path} has no function get_config(arg)")
    config = _running(reference, lambda: module.get_config(*_taken(module.get_config, argument)))
    if not isinstance(config, ConfigDict | Mapping):
        raise UserError(f"--config={path}: get_config returned {config!r}, not a ConfigDict")
    return config.to_dict() if isinstance(config, ConfigDict) else dict(config)


def _taken(get_config: Callable[..., Any], argument: str) -> list[str]:
    """Return what `get_config` is called with: the argument, if there is one.

    Raises:
        UserError: it does not take this one.
    """
    given = [argument] if argument else []
    first = next(iter(inspect.signature(get_config, eval_str=True).parameters.values()), None)
    if first is None:
        if given:
            raise UserError(f"get_config takes no argument; leave {argument!r} out")
        return given
    known = typing.get_args(first.annotation) if typing.get_origin(first.annotation) is typing.Literal else ()
    if known and argument not in known and (given or first.default is first.empty):
        raise UserError(
            f"{first.name}={argument!r} is not known; choose one of: {choices(known)}{nearest(argument, known)}"
        )
    return given


def _running(reference: str, recipe: Callable[[], Any]) -> Any:
    """Return `recipe()`; what it raises becomes a UserError that names the recipe, or the line of its file."""
    file = Path(reference.partition(":")[0])
    try:
        return recipe()
    except UserError as error:
        raise UserError(f"--config={reference}: {error}") from None
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f"{file}:{line}" if line else f"--config={file}"
        raise UserError(f"{where}: {type(error).__name__}: {error}") from None


def _similar(file: Path) -> str:
    there = [str(p) for folder in (file.parent, Path("configs")) if folder.is_dir() for p in folder.glob("*.py")]
    return nearest(str(file), there) or "; `python -m llm_jax configs` lists the recipes"
