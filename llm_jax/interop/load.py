"""Foreign tensors into our parameters: everything is compared before anything is read, then leaf by leaf.

Tensors are read in the order of our leaves, so that one stack of layers is all that is held here, and one tensor, or a
few that are a small part of it: those of many layers are read at once by several threads.
"""

import functools
import math
import os
import re
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from llm_jax.core.table import UserError, nearest
from llm_jax.interop.names import NameMap, Shape, Slot, slots
from llm_jax.interop.safetensors import Tensors

ALIGNMENT = 64  # bytes; jax takes over an aligned host array on a CPU without a copy
STRIPE = 16  # float32 of a cache line
SHARE = 8  # a thread more for so many tensors of a leaf: together they hold an eighth of it
MOST_THREADS = 8
SHOWN = 40


class Match(NamedTuple):
    """How a file's tensors meet a model's.

    sources: {name in our map: name in the file} of those that fit. copies: {name in the file of a tied copy: of its
    original}. problems: everything that does not fit.
    """

    sources: dict[str, str]
    copies: dict[str, str]
    problems: list[str]


def match(tensors: Tensors, names: NameMap, shapes: Mapping[str, Shape]) -> Match:
    """Compare all names, shapes and dtypes of a file with those of a model; nothing is read."""
    table = slots(names, shapes)
    sources: dict[str, str] = {}
    copies, problems, misfits = dict[str, str](), list[str](), set[str]()
    for raw, info in tensors.infos.items():
        name = names.full(raw)
        wanted = table[name].rule.shape(table[name].shapes) if name in table else None
        if name not in table and any(re.fullmatch(pattern, name) for pattern in names.ignored):
            continue
        if wanted is None and name in names.copies:
            copies[raw] = names.copies[name]
        elif wanted is None:
            problems.append(f"{raw} {list(info.shape)} is unknown{nearest(name, table)}")
        elif name in sources:
            problems.append(f"{raw} and {sources[name]} are the same tensor")
        elif tuple(info.shape) != wanted or not _is_float(info.dtype):
            problems.append(f"{raw} is {info.dtype}{list(info.shape)}; this model needs float{list(wanted)}")
            misfits.add(name)
        else:
            sources[name] = raw
    problems += [f"{name} is missing" for name in table if name not in sources and name not in misfits]
    return Match(sources, {raw: sources[n] for raw, n in copies.items() if n in sources}, problems)


def _is_float(dtype: np.dtype) -> bool:
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float"))


def leaves(
    tensors: Tensors, names: NameMap, shapes: Mapping[str, Shape], *, partial: bool = False
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield our (path, float32 array), each whole, in the order of the map.

    Args:
        tensors: of a file.
        names: the family's map.
        shapes: of the model's parameters by path.
        partial: leave out parameters that the file does not fill; by default they are refused.

    Raises:
        UserError: the full list of what is missing, unknown or of another shape, or copies that differ; before the
            first leaf is yielded.
    """
    found = match(tensors, names, shapes)
    if found.problems and not partial:
        more = [f"and {len(found.problems) - SHOWN} more"] if len(found.problems) > SHOWN else []
        raise UserError("the tensors are not this model's:\n  " + "\n  ".join(found.problems[:SHOWN] + more))
    for raw, original in found.copies.items():
        if not np.array_equal(tensors.read(raw), tensors.read(original)):
            raise UserError(f"tensors {original} and {raw} differ, and this model ties them; it cannot be imported so")
    return _filled(tensors, slots(names, shapes), found.sources, shapes)


def _filled(
    tensors: Tensors, table: Mapping[str, Slot], sources: Mapping[str, str], shapes: Mapping[str, Shape]
) -> Iterator[tuple[str, np.ndarray]]:
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, slot in table.items():
        groups.setdefault(slot.rule.ours, []).append(name)
    for paths, group in groups.items():
        if not all(name in sources for name in group):
            continue
        whole = {path: empty(shapes[path]) for path in paths}
        fill = functools.partial(_fill, tensors, table, sources, whole)
        with ThreadPoolExecutor(_threads(len(group))) as pool:
            deque(pool.map(fill, group), maxlen=0)
        for path in paths:
            yield path, whole.pop(path)


def _fill(
    tensors: Tensors, table: Mapping[str, Slot], sources: Mapping[str, str], whole: Mapping[str, np.ndarray], name: str
) -> None:
    """Read one tensor into its place in the leaves that it is a part of."""
    slot = table[name]
    parts = slot.rule.decode(tensors.read(sources[name]), slot.shapes)
    for path, part in zip(slot.rule.ours, parts, strict=True):
        copy(whole[path][slot.at], part, slot.rule.inputs)


def _threads(tensors: int) -> int:
    return max(1, min(tensors // SHARE, os.cpu_count() or 1, MOST_THREADS))


def copy(ours: np.ndarray, part: np.ndarray, inputs: int) -> None:
    """Copy and cast a part; a transposed one in stripes of a few of its own rows, eight times as fast as at once."""
    if part.flags.c_contiguous:
        ours[...] = part
        return
    matrix = (math.prod(part.shape[:inputs]), math.prod(part.shape[inputs:]))
    target, source = ours.reshape(matrix), part.reshape(matrix)  # views, both
    for i in range(0, matrix[1], STRIPE):
        target[:, i : i + STRIPE] = source[:, i : i + STRIPE].astype(np.float32, order="K", copy=False)


def empty(shape: Shape) -> np.ndarray:
    """Return an uninitialised float32 array whose first element lies at a multiple of 64 bytes."""
    size = int(np.prod(shape, dtype=np.int64)) * 4
    room = np.empty(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size].view(np.float32).reshape(shape)
