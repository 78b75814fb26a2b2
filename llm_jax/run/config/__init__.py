"""A configuration from its file to a checked, complete, plain dictionary, with the origin of every value.

Overrides of a recipe are dotted paths with text. What neither sets comes from the dataclasses of the sections, so that
every key can be overridden, whether the recipe names it or not. A resolved configuration is data only: it is stored as
JSON and never imported.
"""

import dataclasses
import hashlib
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_jax.core.table import UserError, choices, lookup, nearest
from llm_jax.models import MODELS
from llm_jax.objectives import OBJECTIVES
from llm_jax.optim import SCHEDULES
from llm_jax.optim.options import ALLOWED, accepted
from llm_jax.run.config.recipes import load_recipe as load_recipe
from llm_jax.run.config.values import Text, convert
from llm_jax.run.sections import SECTIONS

TOP = ("model", "objective", "optimizer", *SECTIONS, "seed", "init_from")
FREE_ON_RESUME = ("mesh", "log", "checkpoint", "eval", "sample", "launch", "export")
BINDING = ("mesh.compute_dtype", "mesh.quantize")


@dataclass(frozen=True)
class Config:
    """values: the complete nested configuration. origins: dotted key -> recipe, command line or default."""

    values: dict[str, Any]
    origins: dict[str, str]

    def hash(self) -> str:
        """A digest of all values."""
        return hashlib.sha256(json.dumps(self.values, sort_keys=True).encode()).hexdigest()[:16]


def resolve(recipe: Mapping[str, Any], overrides: Sequence[tuple[str, str]] = ()) -> Config:
    """Return the complete configuration of a recipe with overrides ("model.num_layers", "6") laid over it.

    Raises:
        UserError: an unknown section or key, a key given twice, or a value of a wrong type.
    """
    given: dict[str, Any] = json.loads(json.dumps(_keys(recipe, "config"), default=_refuse_object))
    origins: dict[str, str] = {key: "recipe" for key in _leaves(given)}
    for key, text in overrides:
        if origins.get(key) == "command line":
            raise UserError(f"--config.{key} is given twice; give it once")
        _put(given, key, Text(text))
        origins[key] = "command line"
    for section in given:
        if section not in TOP:
            raise UserError(
                f"config.{section} is not a section; the sections are {choices(TOP)}{nearest(section, TOP)}"
            )
    values: dict[str, Any] = {}
    for section in TOP:
        if section == "seed":
            values[section] = convert(given.get(section, 0), int, section)
        elif section == "init_from":
            values[section] = convert(given.get(section), str | None, section)
        else:
            values[section] = _section(section, given.get(section, {}))
    for key in _leaves(values):
        origins.setdefault(key, "default")
    return Config(values, {key: origins[key] for key in _leaves(values)})


def _refuse_object(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    raise UserError(f"a recipe holds plain data only, not {value!r}")


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for name in parents:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise UserError(f"config.{key}: {name!r} is a value and has no keys")
    tree[last] = value


def _leaves(tree: Mapping[str, Any]) -> list[str]:
    return list(_flat(tree))


def _keys(given: Any, where: str) -> Mapping[str, Any]:
    """Return `given` if it is a section; text from the command line may be one: {"name": "cosine"}."""
    value = convert(given, dict, where) if isinstance(given, Text) else given
    if not isinstance(value, Mapping):
        raise UserError(f"{where}={given!r} must be a section with keys; set one of them: {where}.KEY=VALUE")
    return value


def _section(name: str, given: Any) -> dict[str, Any]:
    given = _keys(given, name)
    if name in ("model", "objective"):
        table = MODELS if name == "model" else OBJECTIVES
        chosen = convert(given.get("name", "causal" if name == "objective" else ""), str, f"{name}.name")
        member = lookup(table, chosen, f"{name}.name")
        rest = {k: v for k, v in given.items() if k != "name"}
        return {"name": chosen, **_fields(member, rest, name)}
    if name == "optimizer":
        return _optimizer(given)
    return _fields(SECTIONS[name], given, name)


def _optimizer(given: Mapping[str, Any]) -> dict[str, Any]:
    """The common fields, those of the member, and those of the schedule."""
    name = convert(given.get("name", "adamw"), str, "optimizer.name")
    schedule = dict(_keys(given.get("schedule", {}), "optimizer.schedule"))
    shape = convert(schedule.pop("name", "constant"), str, "optimizer.schedule.name")
    common: dict[str, Any] = {
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "clip_norm": 1.0,
        "decay_exclude": None,
        "freeze": [],
        "layer_decay": None,
        "groups": {},
    }
    defaults = {**common, **accepted(name)}
    inner = accepted(shape, SCHEDULES, "optimizer.schedule.name")
    rest = {k: v for k, v in given.items() if k not in ("name", "schedule")}
    return {
        "name": name,
        **_like(defaults, rest, "optimizer", extra=("name", "schedule")),
        "schedule": {"name": shape, **_like(inner, schedule, "optimizer.schedule", extra=("name",))},
    }


def _like(defaults: Mapping[str, Any], given: Mapping[str, Any], where: str, extra: Sequence[str]) -> dict[str, Any]:
    for key in given:
        if key not in defaults:
            known = [*defaults, *extra]
            raise UserError(f"{where}.{key} is not a key; {where} accepts {choices(known)}{nearest(key, known)}")
    return {
        key: convert(given[key], _kind(ALLOWED[key]), f"{where}.{key}")
        if key in given
        else (list(default) if isinstance(default, tuple) else default)
        for key, default in defaults.items()
    }


def _kind(allowed: str) -> Any:
    """Return the type that an option of an optimizer has, from the words of `optim.options.ALLOWED`."""
    kinds = {
        "a number": float, "an integer": int, "True or False": bool, "a list": list[str], "regular expressions": dict,
    }  # fmt: skip
    kind: Any = next(kind for words, kind in kinds.items() if allowed.startswith(words))
    return kind | None if allowed.endswith("or None") else kind


def _fields(cls: type, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of a dataclass's fields as plain data; a required field that is missing stays None (derived)."""
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key in _keys(given, where):
        if key not in known:
            raise UserError(f"{where}.{key} is not a key; {where} accepts {choices(known)}{nearest(key, known)}")
    values: dict[str, Any] = {}
    for name, field in known.items():
        hint, key = hints[name], f"{where}.{name}"
        if dataclasses.is_dataclass(hint):
            values[name] = _fields(typing.cast(type, hint), given.get(name, {}), key)
        elif name in given:
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            values[name] = convert(given[name], hint | None if required else hint, key)
        elif field.default is not dataclasses.MISSING:
            values[name] = list(field.default) if isinstance(field.default, tuple) else field.default
        else:
            values[name] = None if field.default_factory is dataclasses.MISSING else field.default_factory()
    return values


def construct(cls: type, values: Mapping[str, Any]) -> Any:
    """Return the dataclass `cls` with `values`; nested dictionaries become dataclasses, and lists tuples.

    A model is hashed as a static argument of jit, which a list could not be.
    """
    hints = typing.get_type_hints(cls)

    def built(value: Any, hint: Any) -> Any:
        if dataclasses.is_dataclass(hint):
            return construct(typing.cast(type, hint), value)
        return tuple(value) if typing.get_origin(hint) is tuple and isinstance(value, list) else value

    return cls(**{name: built(value, hints.get(name)) for name, value in values.items()})


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return "key: old -> new" for everything that a resumed run may not change without a word."""
    before, after = _flat(old), _flat(new)
    lines = []
    for key in sorted(before.keys() | after.keys()):
        free = key.split(".")[0] in FREE_ON_RESUME and key not in BINDING
        if not free and before.get(key) != after.get(key):
            lines.append(f"{key}: {before.get(key, '(absent)')!r} -> {after.get(key, '(absent)')!r}")
    return lines


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        nested = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat
