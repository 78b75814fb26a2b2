"""A digest per array that finds any flipped bit and does not depend on how the array is sharded.

The digest is the sum modulo 2^64 of h(i, x) over all elements, where i is the flat row-major index in the whole array
and x the bits of the element: h(i, x) = m(x + i·φ), m(z) = s29(C · s32(z)), s_k(z) = z ^ (z >> k), with φ and C those
of SplitMix64 (Steele, Lea, Flood 2014). m is a bijection, so that one changed element always changes the digest;
several changed or swapped ones cancel only by chance. A sum may be taken piece by piece, in any order.
"""

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

CHUNK = 1 << 15  # elements a pass: three buffers of 256 KiB stay in a core's own cache
PHI = np.uint64(0x9E3779B97F4A7C15)
MIX = np.uint64(0xBF58476D1CE4E5B9)
SUB_BYTE = re.compile(r"u?int[1-4]|float[46]_\w+")  # one element a byte, some bits of which mean nothing


class Piece(NamedTuple):
    """A box of an array: `data` stands at `box` (a slice for each axis) in a whole of `shape`."""

    data: np.ndarray
    box: tuple[slice, ...]
    shape: tuple[int, ...]


def whole(array: Any) -> Piece:
    """Return the piece that is all of a host array."""
    data = np.asarray(array)
    return Piece(data, tuple(slice(0, n) for n in data.shape), data.shape)


def digest(piece: Piece) -> int:
    """Return the sum of one piece, in [0, 2^64); the pieces of an array add up to its digest (modulo 2^64)."""
    bits = _bits(piece.data)
    sizes = (*piece.data.shape, *bits.shape[piece.data.ndim :])
    shape = (*piece.shape, *bits.shape[piece.data.ndim :])
    starts = [s.start or 0 for s in piece.box] + [0] * (len(shape) - len(piece.shape))
    if not bits.size:
        return 0
    strides = [math.prod(shape[d + 1 :]) for d in range(len(shape))]
    outer = _first_of_run(sizes, shape)
    rows, run = math.prod(sizes[:outer]), math.prod(sizes[outer:])
    base = sum(a * b for a, b in zip(starts, strides, strict=True))
    return _sum(bits.reshape(rows, run), sizes[:outer], strides[:outer], base)


def digests(pieces: Mapping[str, Sequence[Piece]], workers: int | None = None) -> dict[str, int]:
    """Return {name: sum of its pieces modulo 2^64}, computed by a few threads (numpy lets go of the interpreter)."""
    jobs = [(name, piece) for name, some in pieces.items() for piece in some]
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        sums = list(pool.map(lambda job: digest(job[1]), jobs))
    return merge([dict.fromkeys(pieces, 0), *({name: s} for (name, _), s in zip(jobs, sums, strict=True))])


def merge(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add the partial sums of several processes or pieces, name by name, modulo 2^64."""
    total: dict[str, int] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = (total.get(name, 0) + value) % 2**64
    return total


def _bits(data: np.ndarray) -> np.ndarray:
    """Return the elements as unsigned integers; those wider than 64 bits get a last axis of words."""
    data = np.ascontiguousarray(data).reshape(data.shape)
    if SUB_BYTE.fullmatch(data.dtype.name):
        data = data.astype(np.float32)
    size = data.dtype.itemsize
    if size <= 8:
        return data.reshape(-1).view(f"u{size}").reshape(data.shape)
    return data.reshape(-1).view(np.uint64).reshape(*data.shape, size // 8)


def _first_of_run(sizes: Sequence[int], shape: Sequence[int]) -> int:
    """Return the axis from which on the box is contiguous in the whole."""
    axis = len(shape)
    while axis > 0 and (axis == len(shape) or sizes[axis] == shape[axis]):
        axis -= 1
    return axis


def _sum(bits: np.ndarray, sizes: Sequence[int], strides: Sequence[int], base: int) -> int:
    """Sum h over `bits` [rows, run]; row r starts at flat index base + unravel(r, sizes) · strides."""
    rows, run = bits.shape
    width = min(run, CHUNK)
    height = max(1, CHUNK // width)
    ramp = np.arange(width, dtype=np.uint64) * PHI
    hashed, shifted = np.empty((2, height, width), np.uint64)
    total = 0
    for r in range(0, rows, height):
        first = _row_starts(r, min(r + height, rows), sizes, strides, base)
        for c in range(0, run, width):
            part = bits[r : r + height, c : c + width]
            z, w = (b[: part.shape[0], : part.shape[1]] for b in (hashed, shifted))
            np.add(ramp[: part.shape[1]], ((first + np.uint64(c)) * PHI)[:, None], out=z)
            np.add(z, part, out=z)
            np.bitwise_xor(z, np.right_shift(z, np.uint64(32), out=w), out=z)
            np.multiply(z, MIX, out=z)
            np.bitwise_xor(z, np.right_shift(z, np.uint64(29), out=w), out=z)
            total += int(z.sum(dtype=np.uint64))
    return total % 2**64


def _row_starts(first: int, last: int, sizes: Sequence[int], strides: Sequence[int], base: int) -> np.ndarray:
    """Return the flat index in the whole at which each of the rows first..last of a box starts, as uint64."""
    starts = np.full(last - first, base, np.uint64)
    if sizes:
        for coordinate, stride in zip(np.unravel_index(np.arange(first, last), sizes), strides, strict=True):
            starts += coordinate.astype(np.uint64) * np.uint64(stride)
    return starts
