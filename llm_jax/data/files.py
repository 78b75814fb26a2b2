"""Sources that are the user's own files: plain text, JSON lines, Parquet, and token shards that exist already.

Each takes `files` (a glob pattern or a list of them) and either `validation` (another) or `held_out`, the fraction of
documents to hold out by the hash of their text.
"""

import bisect
import json
from array import array
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from llm_jax.core.table import UserError
from llm_jax.data.documents import Document, Documents, Indexed, check_fraction, find, fingerprint, hold_out
from llm_jax.text.shards import DamagedError, Shard, open_shard


def split_files(
    split: str,
    files: str | list | tuple,
    validation: str | list | tuple | None,
    held_out: float,
    load: Callable[[list[Path]], Sequence[Document]],
    *parts: object,
) -> Documents | None:
    """Return a split of files: by their own pattern where there is one, else by hash; None if nothing is held out."""
    check_fraction(held_out)
    if split == "validation" and not validation and not held_out:
        return None
    train, other = find(files, "data.options.files"), find(validation, "data.options.validation") if validation else []
    chosen = other if validation and split == "validation" else train
    if validation:
        return Documents(fingerprint(chosen, *parts), lambda: load(chosen))
    return Documents(fingerprint(chosen, split, held_out, *parts), lambda: hold_out(load(chosen), split, held_out))


def text(
    *,
    split: str,
    files: str | list | tuple,
    validation: str | list | tuple | None = None,
    held_out: float = 0.05,
    separator: str | None = None,
) -> Documents | None:
    """Plain UTF-8 text: a document a file, or several where `separator` (such as "<|endoftext|>") stands between."""

    def load(paths: list[Path]) -> list[Document]:
        return [document for path in paths for document in _text_documents(path, separator)]

    return split_files(split, files, validation, held_out, load, "text", separator)


def _text_documents(path: Path, separator: str | None) -> list[Document]:
    """Return the documents of a text file.

    Raises:
        UserError: it is not UTF-8; the message gives the line.
    """
    raw = path.read_bytes()
    try:
        whole = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 (byte {raw[error.start]:#04x} at offset {error.start})") from None
    pieces = whole.split(separator) if separator else [whole]
    return [Document(piece, f"{path.name}:{i}") for i, piece in enumerate(pieces) if piece.strip()]


def jsonl(
    *,
    split: str,
    files: str | list | tuple,
    validation: str | list | tuple | None = None,
    held_out: float = 0.05,
    field: str = "text",
) -> Documents | None:
    """JSON lines: an object a line, its text under `field`; blank lines are skipped."""

    def load(paths: list[Path]) -> Sequence[Document]:
        places = [np.frombuffer(_lines(path), np.int64).reshape(-1, 3) for path in paths]
        starts = [0, *accumulate(map(len, places))]

        def read(i: int) -> Document:
            file = bisect.bisect_right(starts, i) - 1
            number, offset, length = places[file][i - starts[file]].tolist()
            return _json_document(paths[file], number, offset, length, field)

        return Indexed(starts[-1], read)

    return split_files(split, files, validation, held_out, load, "jsonl", field)


def _lines(path: Path) -> array:
    """Return int64 triples (line number from 1, offset, length), one after the other, of lines that are not blank."""
    places = array("q")
    offset = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.isspace():
                places.extend((number, offset, len(line)))
            offset += len(line)
    return places


def _json_document(path: Path, number: int, offset: int, length: int, field: str) -> Document:
    with open(path, "rb") as file:
        file.seek(offset)
        raw = file.read(length)
    try:
        value = json.loads(raw.decode("utf-8"))[field]
    except (KeyError, TypeError, IndexError):
        raise UserError(f"{path}:{number}: no field {field!r} in this row; name it by data.options.field") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}:{number}: not a JSON object ({error})") from None
    if not isinstance(value, str):
        raise UserError(f"{path}:{number}: field {field!r} is of type {type(value).__name__}, not a text")
    return Document(value, f"{path.name}:{number}")


def parquet(
    *,
    split: str,
    files: str | list | tuple,
    validation: str | list | tuple | None = None,
    held_out: float = 0.05,
    field: str = "text",
) -> Documents | None:
    """Parquet files: a document a row, its text in the column `field`."""

    def load(paths: list[Path]) -> Sequence[Document]:
        groups = [(path, i, rows) for path in paths for i, rows in enumerate(_row_groups(path, field))]
        starts = [0, *accumulate(rows for *_, rows in groups)]
        column = lru_cache(maxsize=2)(_column)

        def read(i: int) -> Document:
            group = bisect.bisect_right(starts, i) - 1
            path, number, _ = groups[group]
            row = i - starts[group]
            try:
                value = column(path, number, field)[row].as_py()
            except UnicodeDecodeError as error:
                byte = f"byte {error.object[error.start]:#04x} at offset {error.start}"
                raise UserError(
                    f"{path}: row {row} of row group {number}: column {field!r} is not UTF-8 ({byte})"
                ) from None
            if not isinstance(value, str):
                raise UserError(
                    f"{path}: row {row} of row group {number}: column {field!r} holds {value!r}, not a text"
                )
            return Document(value, f"{path.name}:{number}:{row}")

        return Indexed(starts[-1], read)

    return split_files(split, files, validation, held_out, load, "parquet", field)


def _open_parquet(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("data.source='parquet' needs `pip install -r requirements-data.txt`") from None
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} is not a whole Parquet file: {error}") from None


def _row_groups(path: Path, field: str) -> list[int]:
    """Return the number of rows of each row group."""
    with _open_parquet(path) as file:
        if field not in file.schema_arrow.names:
            raise UserError(f"{path} has no column {field!r}; there are: {', '.join(file.schema_arrow.names)}")
        return [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]


def _column(path: Path, group: int, field: str) -> Any:
    """Return one column of one row group."""
    import pyarrow

    with _open_parquet(path) as file:
        try:
            return file.read_row_group(group, columns=[field]).column(0)
        except (OSError, pyarrow.ArrowException) as error:
            raise UserError(f"{path}: row group {group} cannot be read: {error}") from None


def shards(*, split: str, train: str | list | tuple, validation: str | list | tuple | None = None) -> list[Shard]:
    """Token shards that exist already: `train` and `validation` are patterns of their `shard.json` files."""
    patterns = train if split == "train" else validation
    if not patterns:
        return []
    try:
        return [open_shard(path.parent) for path in find(patterns, f"data.options.{split}")]
    except DamagedError as error:
        raise UserError(f"data.options.{split}: {error}") from None
