"""What a map of config.json is made of: entries, each of which says what some keys of theirs are in fields of ours.

A map is a tuple of entries, which turn one side into the other; `configs` reads and writes whole files by them.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from llm_jax.core.table import UserError, choices

Fields = dict[str, Any]  # ours, by dotted names: {"num_layers": 2, "rope.theta": 10000.0}
Json = Mapping[str, Any]
Shapes = Mapping[str, tuple[int, ...]]
REQUIRED = object()


class Entry(NamedTuple):
    """Some keys of theirs and the fields of ours that say the same.

    keys: theirs, all that `read` looks at. read: config.json -> our fields; raises UserError at what ours cannot do.
    write: (our fields, shapes of our parameters) -> keys of config.json. A None among our fields is "derived".
    """

    keys: tuple[str, ...]
    read: Callable[[Json], Fields]
    write: Callable[[Fields, Shapes], dict[str, Any]]


def field(theirs: str, ours: str, default: Any = REQUIRED, size: tuple[str, int] | None = None) -> Entry:
    """One key, one field.

    Args:
        theirs: key of config.json.
        ours: dotted name of the field.
        default: what transformers takes where the key is missing (None: ours is derived too).
        size: (end of its path, dimension) of a parameter whose size it is, for writing a field that was left to be
            derived.
    """

    def read(config: Json) -> Fields:
        value = config.get(theirs, default)
        if value is REQUIRED:
            raise UserError(f"{theirs} is missing")
        return {ours: value}

    def write(fields: Fields, shapes: Shapes) -> dict[str, Any]:
        value = fields.get(ours)
        if value is None and size:
            value = next(shape[size[1]] for path, shape in shapes.items() if path.endswith(size[0]))
        return {theirs: value}

    return Entry((theirs,), read, write)


def either(entry: Entry, *others: str) -> Entry:
    """An entry of one key that has other names too in some files; its own is written."""
    names = (*entry.keys, *others)

    def read(config: Json) -> Fields:
        said = {name: config[name] for name in names if config.get(name) is not None}
        if len(set(said.values())) > 1:
            raise UserError(f"{choices(names)} say the same, and here they differ: {said}")
        return entry.read({**config, **dict.fromkeys(entry.keys, next(iter(said.values())))} if said else config)

    return entry._replace(keys=names, read=read)


def only(theirs: str, *values: Any) -> Entry:
    """A key of which ours can do these values alone; the first is written, and taken where the key is missing."""

    def read(config: Json) -> Fields:
        if config.get(theirs, values[0]) not in values:
            raise UserError(
                f"{theirs}={config[theirs]!r} is not supported; this family does {choices(map(str, values))}"
            )
        return {}

    return Entry((theirs,), read, lambda fields, shapes: {theirs: values[0]})


def harmless(*theirs: str, write: Json | None = None) -> Entry:
    """Keys that change nothing in this family; `write` is written all the same, for programs that ask."""
    return Entry(theirs, lambda config: {}, lambda fields, shapes: dict(write or {}))


@dataclass(frozen=True)
class FieldMap:
    """All fields of a family.

    model_type, architecture: what is written. entries: of all keys that matter. context: the key of the most positions
    that the model was made for; a family with learned positions has as many as its field says. parts: names of tensors
    -> fields that say which parts a file has, where its config.json is not to be trusted with it. source: whether it
    writes one text from another, after a token that is said by decoder_start_token_id.
    """

    model_type: str
    architecture: str
    entries: tuple[Entry, ...]
    context: str = "max_position_embeddings"
    parts: Callable[[Collection[str]], Fields] | None = None
    source: bool = False


def flat(fields: Mapping[str, Any], prefix: str = "") -> Fields:
    """Return nested fields by dotted names."""
    out: Fields = {}
    for name, value in fields.items():
        out |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return out


def nested(fields: Fields) -> dict[str, Any]:
    """Return dotted fields as nested dictionaries."""
    out: dict[str, Any] = {}
    for name, value in fields.items():
        *parents, last = name.split(".")
        node = out
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return out
