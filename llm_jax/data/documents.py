"""Documents: a corpus with random access, a fingerprint, and the two ways of holding a part of it out."""

import glob
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from llm_jax.core.table import UserError, choices

SPLITS = ("train", "validation")
SAMPLED_BYTES = 1 << 20
WHOLE_BYTES = 64 << 20  # a file up to this size is hashed whole, a larger one by 64 evenly spaced MiBs


class Document(NamedTuple):
    """One document: its text, where it comes from, and the mixture component that it belongs to."""

    text: str
    name: str
    domain: int = 0


@dataclass(frozen=True)
class Documents:
    """A lazy corpus: `fingerprint` is known at once, `load` opens it when a document is first asked for."""

    fingerprint: str
    load: Callable[[], Sequence[Document]]

    @cached_property
    def _opened(self) -> Sequence[Document]:
        return self.load()

    def __len__(self) -> int:
        return len(self._opened)

    def __getitem__(self, index: int) -> Document:
        return self._opened[index]

    def __iter__(self) -> Iterator[Document]:
        return (self._opened[i] for i in range(len(self)))


@dataclass(frozen=True)
class Indexed(Sequence[Document]):
    """A sequence of `size` documents that are read one by one."""

    size: int
    read: Callable[[int], Document]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Document:  # type: ignore[override]  # no slices
        if not 0 <= index < self.size:
            raise IndexError(index)
        return self.read(index)


def check_split(split: str) -> None:
    """Raise UserError unless `split` is one of `SPLITS`."""
    if split not in SPLITS:
        raise UserError(f"split={split!r} is not known; choose one of: {choices(SPLITS)}")


def find(patterns: str | Sequence[str], what: str) -> list[Path]:
    """Return the sorted files that a glob pattern, or several, stand for.

    Raises:
        UserError: a pattern matches no file, or a file is empty; the message names it.
    """
    found: set[Path] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        files = [Path(p) for p in glob.glob(os.path.expanduser(pattern), recursive=True) if os.path.isfile(p)]
        if not files:
            raise UserError(f"{what}={pattern!r} matches no file (relative to {os.getcwd()})")
        found.update(files)
    empty = [path for path in sorted(found) if path.stat().st_size == 0]
    if empty:
        raise UserError(f"{what}: {empty[0]} is empty")
    return sorted(found)


def fingerprint(files: Sequence[Path], *parts: object) -> str:
    """Return a hash of names, sizes and contents (evenly sampled for large files) and of `parts`, the options."""
    digest = hashlib.sha256(repr(parts).encode())
    for path in files:
        size = path.stat().st_size
        digest.update(f"\0{path.name}\0{size}\0".encode("utf-8", "surrogateescape"))
        step = SAMPLED_BYTES if size <= WHOLE_BYTES else size // (WHOLE_BYTES // SAMPLED_BYTES)
        with open(path, "rb") as file:
            for offset in range(0, size, step):
                file.seek(offset)
                digest.update(file.read(SAMPLED_BYTES))
    return digest.hexdigest()


def check_fraction(held_out: float) -> None:
    """Raise UserError unless `held_out` is a fraction in [0, 1)."""
    if not 0 <= held_out < 1:
        raise UserError(f"data.options.held_out={held_out!r} must be a fraction from 0 to below 1")


def hold_out(documents: Sequence[Document], split: str, held_out: float) -> Sequence[Document]:
    """Return one side of a split by the hash of each text, so that duplicates stay on one side.

    A corpus of one document is cut in two instead, at the line break before its last `held_out`.
    """
    if len(documents) == 1:
        return _cut(documents[0], split, held_out)
    chosen = [i for i in range(len(documents)) if is_held_out(documents[i].text, held_out) == (split == "validation")]
    return Indexed(len(chosen), lambda i: documents[chosen[i]])


def is_held_out(text: str, fraction: float) -> bool:
    """Return whether a text falls into the held-out `fraction`, by its hash alone."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


def _cut(document: Document, split: str, held_out: float) -> Sequence[Document]:
    """Return the part of a single document that belongs to `split`; nothing where that part is empty."""
    middle = int(len(document.text) * (1 - held_out))
    at = document.text.rfind("\n", 0, middle) + 1 or middle
    part = document.text[:at] if split == "train" else document.text[at:]
    return [document._replace(text=part)] if part else []
