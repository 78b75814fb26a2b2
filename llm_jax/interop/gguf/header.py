"""The header of a GGUF file, read strictly: every claim is compared with the file's length before it is believed."""

import math
import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

from llm_jax.core.table import UserError

NEEDED = "GGUF needs `pip install -r requirements-interop.txt` (the package gguf)"
STRING, ARRAY, LONGEST = 8, 9, 1 << 27
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class Entry(NamedTuple):
    """A tensor in the file: its shape in numpy's order, its type's number, and where its bytes begin and end."""

    shape: tuple[int, ...]
    kind: int
    begin: int
    end: int


def package() -> Any:
    """Return the `gguf` package.

    Raises:
        UserError: it is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise UserError(NEEDED) from None
    return gguf


class Header:
    """The metadata and the table of tensors of a file.

    Raises:
        UserError: it claims what the file does not hold.
    """

    def __init__(self, path: Path):
        self._path = path
        self.metadata: dict[str, Any] = {}
        self.entries: dict[str, Entry] = {}
        with open(path, "rb") as file:
            self._size = path.stat().st_size
            if self._size < 24:
                raise self._lie("it is too short")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as self._data:
                self._at = 0
                try:
                    self._parse()
                except (struct.error, UnicodeDecodeError, RecursionError) as error:
                    raise self._lie(str(error)) from None
        del self._data

    def _parse(self) -> None:
        if self._data[:4] != b"GGUF":
            raise self._lie("it does not begin with GGUF")
        self._at = 4
        version, tensors, pairs = self._one("I"), self._one("Q"), self._one("Q")
        if version not in (2, 3):
            raise self._lie(f"version {version} is not 2 or 3")
        self._fits(pairs, 13)
        for _ in range(pairs):
            key = self._string()
            if not key or key in self.metadata:
                raise self._lie(f"key {key!r} is empty, or comes twice")
            self.metadata[key] = self._value(self._one("I"))
        self._fits(tensors, 24)
        found = [(self._string(), self._shape(), self._one("I"), self._one("Q")) for _ in range(tensors)]
        align = self.metadata.get("general.alignment", 32)
        if not isinstance(align, int) or align <= 0 or align & (align - 1):
            raise self._lie(f"alignment {align!r} is no power of two")
        start = -(-self._at // align) * align
        for name, shape, kind, offset in sorted(found, key=lambda t: t[3]):
            self._place(name, shape, kind, start + offset, align)

    def _place(self, name: str, shape: tuple[int, ...], kind: int, begin: int, align: int) -> None:
        gguf = package()
        if name in self.entries:
            raise self._lie(f"tensor {name!r} comes twice")
        if kind not in {int(k) for k in gguf.GGML_QUANT_SIZES}:
            raise self._lie(f"tensor {name!r} has type {kind}, which is not known")
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
        count, last = math.prod(shape), max((e.end for e in self.entries.values()), default=0)
        if not shape or shape[-1] % block or begin % align:
            raise self._lie(f"tensor {name!r} {list(shape)} at {begin} does not divide into blocks of {block}")
        end = begin + count // block * size
        if begin < last or end > self._size:
            raise self._lie(f"tensor {name!r} lies at {begin} to {end}, in a file of {self._size} bytes, over another")
        self.entries[name] = Entry(shape, kind, begin, end)

    def _one(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self._data, self._at)
        self._at += struct.calcsize(f"<{code}")
        return value

    def _fits(self, count: int, size: int) -> None:
        if count > LONGEST or self._at + count * size > self._size:
            raise self._lie(f"{count} entries of at least {size} bytes do not fit in {self._size}")

    def _string(self) -> str:
        (text,) = self._strings(1)
        return text

    def _strings(self, count: int) -> list[str]:
        data, end, found = self._data, self._at, []
        for _ in range(count):
            begin = end + 8
            end = begin + int.from_bytes(data[end:begin], "little")
            if end > self._size or end - begin > LONGEST:
                raise self._lie(f"a text of {end - begin} bytes does not fit in {self._size}")
            found.append(data[begin:end].decode("utf-8"))
        self._at = end
        return found

    def _shape(self) -> tuple[int, ...]:
        dims = self._one("I")
        if not 0 < dims <= 8:
            raise self._lie(f"a tensor of {dims} dimensions")
        return tuple(self._one("Q") for _ in range(dims))[::-1]

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            inner, count = self._one("I"), self._one("Q")
            if inner in SCALARS:
                values = struct.unpack_from(f"<{count}{SCALARS[inner]}", self._data, self._at)
                self._at += struct.calcsize(f"<{count}{SCALARS[inner]}")
                return list(values)
            if inner == STRING:
                return self._strings(count)
            return [self._value(inner) for _ in range(count)]
        if kind not in SCALARS:
            raise self._lie(f"a value of type {kind}")
        return self._one(SCALARS[kind])

    def _lie(self, what: str) -> UserError:
        return UserError(f"{self._path} is not a whole GGUF file: {what}; get it anew")
