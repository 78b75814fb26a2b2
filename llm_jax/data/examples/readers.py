"""Readers of records: tables with a header (CSV, TSV) and JSON lines.

Each takes `train` (a glob pattern or a list of them; `files` is the same) and either `validation` (another) or
`held_out`, the fraction of rows to hold out by the hash of their values. A row that cannot be read is named by file
and line.
"""

import codecs
import csv as table
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from llm_jax.core.table import UserError, choices
from llm_jax.data.documents import check_fraction, find, fingerprint
from llm_jax.data.examples.records import Record, Records, on_side

Patterns = str | list | tuple | None
LONGEST = 1 << 27  # characters of a cell
GZIPPED = b"\x1f\x8b"
DELIMITERS = {".tsv": "\t", ".tab": "\t"}
READERS = {".csv": "csv", ".tsv": "csv", ".tab": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


def csv(
    *,
    split: str,
    train: str | list | tuple | None = None,
    files: str | list | tuple | None = None,
    validation: str | list | tuple | None = None,
    held_out: float = 0.05,
    delimiter: str | None = None,
    columns: list | tuple | None = None,
) -> Records | None:
    """Tables: a record a row, its fields named by the first row.

    delimiter: between cells; by default a tab in .tsv and .tab files, else a comma. columns: the names of the fields,
    for files that have no row of names.
    """
    check_delimiter(delimiter)

    def read(path: Path) -> Iterator[Record]:
        return rows(path, delimiter, columns)

    return split_rows(split, train, files, validation, held_out, read, "csv", delimiter, columns)


def jsonl(
    *,
    split: str,
    train: str | list | tuple | None = None,
    files: str | list | tuple | None = None,
    validation: str | list | tuple | None = None,
    held_out: float = 0.05,
) -> Records | None:
    """JSON lines: a record an object, an object a line; blank lines are skipped."""
    return split_rows(split, train, files, validation, held_out, objects, "jsonl")


def files(
    *,
    split: str,
    train: str | list | tuple | None = None,
    files: str | list | tuple | None = None,
    validation: str | list | tuple | None = None,
    held_out: float = 0.05,
    delimiter: str | None = None,
    columns: list | tuple | None = None,
) -> Records | None:
    """Tables and JSON lines by their suffix: .csv, .tsv, .jsonl; delimiter, columns: of the tables, as of `csv`."""
    check_delimiter(delimiter)

    def read(path: Path) -> Iterator[Record]:
        return by_suffix(path, delimiter, columns)

    given = [option for option in (delimiter, columns) if option is not None]
    return split_rows(split, train, files, validation, held_out, read, "files", *given)


def check_delimiter(delimiter: str | None) -> None:
    """Refuse what cannot stand between cells."""
    if delimiter is not None and len(delimiter) != 1:
        raise UserError(f"data.options.delimiter={delimiter!r} must be one character, such as ';'")


def split_rows(
    split: str,
    train: Patterns,
    files: Patterns,
    validation: Patterns,
    held_out: float,
    read: Callable[[Path], Iterator[Record]],
    *parts: object,
) -> Records | None:
    """Return a split of files: by their own pattern where there is one, else by hash; None if nothing is held out."""
    check_fraction(held_out)
    if (train is None) == (files is None):
        raise UserError("data.options: name the files with examples by `train` (or `files`, which is the same)")
    if split == "validation" and not validation and not held_out:
        return None
    given = find(train or files or "", f"data.options.{'files' if train is None else 'train'}")
    other = find(validation, "data.options.validation") if validation else []
    chosen = other if other and split == "validation" else given

    def load() -> Sequence[Record]:
        found = [record for path in chosen for record in read(path)]
        if not found:
            raise UserError(f"{chosen[0]}: there is no row with an example")
        return found if other else on_side(found, split, held_out)

    return Records(fingerprint(chosen, *parts, *(() if other else (split, held_out))), load)


def by_suffix(path: Path, delimiter: str | None = None, columns: Sequence[str] | None = None) -> Iterator[Record]:
    """Yield the records of a file of a known kind."""
    suffix = path.suffix.lower()
    if suffix not in READERS:
        if suffix == ".gz":
            raise UserError(f"{path}: it is compressed; unpack it with `gunzip -k`")
        raise UserError(f"{path}: of no known kind; one of {choices(READERS)}, or set data.source to 'csv' or 'jsonl'")
    return objects(path) if READERS[suffix] == "jsonl" else rows(path, delimiter, columns)


def rows(path: Path, delimiter: str | None, columns: Sequence[str] | None) -> Iterator[Record]:
    """Yield the records of a table; the delimiter None is that of the suffix.

    Raises:
        UserError: it is not UTF-8, a row has too many or too few cells, a quote stays open, or names are missing.
    """
    delimiter = delimiter or DELIMITERS.get(path.suffix.lower(), ",")
    lines = table.reader(io.StringIO(_decoded(path), newline=""), delimiter=delimiter, strict=True)
    names = None if columns is None else _named(path, list(columns))
    before, limit = 0, table.field_size_limit(LONGEST)
    try:
        while True:
            try:
                cells = next(lines)
            except StopIteration:
                return
            except table.Error as error:
                told = "a quote is never closed" if "unexpected end" in str(error) else error
                raise UserError(
                    f"{path}:{before + 1}: this row is no row of a table ({told}); a quote within a quoted cell is "
                    'written twice (""), and data.options.delimiter says what stands between cells'
                ) from None
            line, before = before + 1, lines.line_num
            if not cells:
                continue
            if names is None:
                names = _named(path, cells)
                check_whole(path, names, delimiter)
            elif len(cells) != len(names):
                mend = f'put a cell that holds {delimiter!r} into quotes ("…"), or set data.options.delimiter'
                raise UserError(
                    f"{path}:{line}: {len(cells)} cell{'s' * (len(cells) != 1)}, and there are {len(names)} fields "
                    f"({', '.join(names)}); {mend if len(cells) > len(names) else 'complete the row, or remove it'}"
                )
            else:
                yield Record(dict(zip(names, cells, strict=True)), f"{path}:{line}")
    finally:
        table.field_size_limit(limit)


def _named(path: Path, names: list[str]) -> list[str]:
    bare = [str(name).strip() for name in names]
    if not all(bare) or len(set(bare)) < len(bare):
        raise UserError(
            f"{path}:1: the first row must name the fields, each once, and is {', '.join(map(repr, bare))}; name every "
            "column or leave it out (pandas: index=False); for a file without names give data.options.columns"
        )
    return bare


def check_whole(path: Path, names: list[str], delimiter: str) -> None:
    """Refuse a row of names that are one name, since something else stands between them."""
    other = next((c for c in ";\t|," if c != delimiter and c in names[0]), None)
    if len(names) == 1 and other:
        raise UserError(
            f"{path}:1: {delimiter!r} divides the row of names into one alone, {names[0]!r}; set "
            f"data.options.delimiter={other!r}"
        )


def objects(path: Path) -> Iterator[Record]:
    """Yield the records of JSON lines.

    Raises:
        UserError: it is not UTF-8, or a line is no JSON object.
    """
    for number, line in enumerate(_decoded(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{number}: not a JSON object ({error}); each line must be one") from None
        if not isinstance(value, dict):
            raise UserError(
                f"{path}:{number}: {line.strip()!r:.60} is no JSON object with named fields, one on each line; "
                "`jq -c .[]` makes such lines of a list"
            )
        yield Record(value, f"{path}:{number}")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return an object as a dict; a name that is given twice is an error."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return found


def _decoded(path: Path) -> str:
    """Return the content of a file, without a byte-order mark.

    Raises:
        UserError: it is not UTF-8, or holds a NUL byte; the message gives the line.
    """
    raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if raw[:2] == GZIPPED:
            raise UserError(
                f"{path}: it is compressed; rename it to {path.name}.gz and unpack it with `gunzip`"
            ) from None
        line = raw.count(b"\n", 0, error.start) + 1
        known = "utf16" if raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "latin1"
        raise UserError(
            f"{path}:{line}: not UTF-8 (byte {raw[error.start]:#04x}); save it as UTF-8, such as by "
            f"`iconv -f {known} -t utf8`"
        ) from None
    if "\0" in text:
        raise UserError(
            f"{path}:{text.count(chr(10), 0, text.index(chr(0))) + 1}: a NUL byte, as files have that are UTF-16 "
            "(`iconv -f utf16le -t utf8`) or no text at all; remove it, such as by `tr -d '\\000'`"
        )
    return text
