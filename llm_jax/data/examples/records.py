"""Records: a row of a file as named values, with the name that an error calls it by."""

import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from llm_jax.core.table import UserError, lookup, nearest
from llm_jax.data.documents import check_split, is_held_out
from llm_jax.text.options import check

RECORDS = {
    "files": "llm_jax.data.examples.readers:files",
    "csv": "llm_jax.data.examples.readers:csv",
    "jsonl": "llm_jax.data.examples.readers:jsonl",
    "published": "llm_jax.data.published.corpora:published",
    "reasoning": "llm_jax.data.tasks.reasoning:reasoning",
}


class Record(NamedTuple):
    """One example. values: name of a field -> what stands there. name: where it stands, "file.csv:12"."""

    values: Mapping[str, Any]
    name: str


@dataclass(frozen=True)
class Records:
    """Lazy examples: `fingerprint` says at once what they are, `read` opens them when one is first asked for."""

    fingerprint: str
    read: Callable[[], Sequence[Record]]

    @cached_property
    def _opened(self) -> Sequence[Record]:
        return self.read()

    def __len__(self) -> int:
        return len(self._opened)

    def __getitem__(self, index: int) -> Record:
        return self._opened[index]

    def __iter__(self) -> Iterator[Record]:
        return iter(self._opened)

    def cleaned(self, clean: Callable[[str], str], fingerprint: str) -> "Records":
        """Return the records with every text in them cleaned; `fingerprint` is that of the result."""

        def mend(value: Any) -> Any:
            if isinstance(value, str):
                return clean(value)
            if isinstance(value, Mapping):
                return {name: mend(inner) for name, inner in value.items()}
            return [mend(inner) for inner in value] if isinstance(value, list) else value

        def read() -> list[Record]:
            found = []
            for record in self:
                try:
                    found.append(Record(mend(record.values), record.name))
                except UserError as error:
                    raise UserError(f"{record.name}: {error}") from None
            return found

        return Records(fingerprint, read)


def open_records(name: str, options: Mapping[str, Any] | None, split: str) -> Records | None:
    """Return one split of the source `name` of examples; None where nothing is held out.

    Each source is `source(*, split, **options) -> Records | None`.

    Raises:
        UserError: unknown name, option or split; a file that is missing, empty or broken.
    """
    check_split(split)
    source = lookup(RECORDS, name, "data.source (with data.form)")
    given = dict(options or {})
    if "split" in given:
        raise UserError("data.options.split is not an option here; 'train' and 'validation' are both built")
    found: Records | None = source(**check(source, {**given, "split": split}, "data.options"))
    return found


def on_side(records: Sequence[Record], split: str, held_out: float) -> list[Record]:
    """Return one side of a split by the hash of each record's values, so that duplicates stay on one side."""

    def out(record: Record) -> bool:
        return is_held_out(json.dumps(record.values, sort_keys=True, default=str), held_out)

    return [record for record in records if out(record) == (split == "validation")]


def text_of(record: Record, field: str, option: str, *, empty: bool = False) -> str:
    """Return the text in a field.

    Args:
        record: the example.
        field: its name.
        option: by which the user names the field, such as "text" for data.form.text.
        empty: whether there may be nothing but white space.

    Raises:
        UserError: there is no such field, it is no text, or empty; the message names the record.
    """
    value = value_of(record, field, option)
    if not isinstance(value, str):
        raise UserError(f"{record.name}: field {field!r} is of type {type(value).__name__}, not a text: {value!r:.60}")
    if not empty and not value.strip():
        raise UserError(f"{record.name}: field {field!r} is empty; fill it in, or remove the row")
    return value


def value_of(record: Record, field: str, option: str) -> Any:
    """Return what stands in a field.

    Raises:
        UserError: there is no such field; the message names the record and the fields that it has.
    """
    if field not in record.values:
        there = ", ".join(record.values) or "none"
        close = nearest(field, record.values)
        raise UserError(
            f"{record.name}: no field {field!r}; there are: {there}{close} (data.form.{option} names the field)"
        )
    return record.values[field]


def member(record: Record, field: str, value: Any, known: Sequence[str], option: str) -> int:
    """Return the number of a name in a list that the user gave.

    Raises:
        UserError: it is not in the list; the message names the record and the nearest of the list.
    """
    name = value if isinstance(value, str) else json.dumps(value)
    if name in known:
        return list(known).index(name)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise UserError(
        f"{record.name}: field {field!r} is {name!r}, and data.form.{option} has {', '.join(map(repr, known))}{hint}"
    )
