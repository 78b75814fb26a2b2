"""What crosses links: every collective of a program, by kind and by the mesh axes that it runs along.

Bytes are those that each device sends: of a gather or scatter over n devices (n-1)/n of the whole, of a sum over all
twice that (a ring each, Patarasuk & Yuan 2009), of a permutation all of it.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from llm_jax.planning.hlo import Instruction, Program, called, parts, type_bytes

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
SCATTERED = {"all-reduce-scatter": "reduce-scatter"}  # its all-reduce has the whole as its result
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:,\s*device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?\s*\{([^}]*)\}"
)
_LIST = re.compile(r"(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)*)\}")
_BETWEEN = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


@dataclass(frozen=True)
class Traffic:
    """count: collectives of a step. whole: bytes of their results (of a scatter, of its operand). sent: by a device."""

    kind: str
    axes: tuple[str, ...]
    count: int
    whole: float
    sent: float


def traffic(program: Program, mesh: Mapping[str, int]) -> list[Traffic]:
    """Return the collectives of a step, summed by kind and mesh axes, most bytes first.

    Between slices TPUs hand what is to be summed to their hosts: a `send` that names the collective.
    """
    found: dict[tuple[str, tuple[str, ...]], list[float]] = {}
    for line, kind, times in occurrences(program):
        members = groups(line.rest, math.prod(mesh.values()))
        size = members.shape[1] if members.size else 1
        if size < 2:
            continue
        whole = line.result_bytes if kind in SCATTERED else _whole(line, kind, size)
        kind = SCATTERED.get(kind, kind)
        entry = found.setdefault((kind, axes_of(members, mesh)), [0, 0.0, 0.0])
        entry[0] += times
        entry[1] += times * whole
        entry[2] += times * sent(kind, whole, size)
    for line, times in program.lines():
        between = _BETWEEN.search(line.rest) if line.op == "send" else None
        if between:
            kind, whole = between[1].lower().replace("_", "-"), type_bytes(line.result.split(", u32[]")[0])
            entry = found.setdefault((kind, ("slice",)), [0, 0.0, 0.0])
            entry[0] += times
            entry[1] += times * whole
            entry[2] += times * sent(kind, whole, mesh["slice"])
    rows = [Traffic(kind, axes, int(n), whole, out) for (kind, axes), (n, whole, out) in found.items()]
    return sorted(rows, key=lambda row: -row.sent)


def occurrences(program: Program) -> Iterator[tuple[Instruction, str, int]]:
    """Every collective, its kind and how often it runs: those within fusions too.

    TPUs fuse a sum with the slice that follows (`all-reduce-scatter`), and begin, go on with and end a collective in
    several fusions, which then share a channel.
    """
    seen = set()
    for line, times in program.lines():
        kind = line.op.removesuffix("-start")
        if kind in KINDS:
            yield line, kind, times
        for name in called(line) if line.op == "fusion" else ():
            for inner in program.computations.get(name, []):
                channel = re.search(r"channel_id=(\d+)", inner.rest)
                same = (channel[1] if channel else inner.name, inner.op, inner.result_bytes)
                if inner.op not in KINDS or same in seen:
                    continue
                seen.add(same)
                yield inner, "all-reduce-scatter" if "reduce-scatter" in name else inner.op, times


def sent(kind: str, whole: float, size: int) -> float:
    """Bytes that one of `size` devices sends for a collective over `whole` bytes."""
    if kind == "collective-permute":
        return whole
    return whole * (size - 1) / size * (2 if kind == "all-reduce" else 1)


def _whole(line: Instruction, kind: str, size: int) -> float:
    result = line.result
    if line.op.endswith("-start") and kind != "all-reduce" and result.startswith("("):
        result = parts(result)[1]  # what is begun holds the operands too, and these come first
    return type_bytes(result) * (size if kind == "reduce-scatter" else 1)


def groups(text: str, devices: int) -> np.ndarray:
    """Return [groups, members] of device numbers in the mesh's order."""
    if found := _IOTA.search(text):
        shape, dims = ([int(n) for n in part.split(",")] for part in (found[1], found[2]))
        ids = np.arange(math.prod(dims)).reshape(dims)
        order = [int(n) for n in found[3].split(",")] if found[3] else range(len(dims))
        return ids.transpose(order).reshape(shape)
    if found := _MESH.search(text):
        sizes = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", found[1])}
        along = re.findall(r"'([^']+)'", found[4])
        ids = np.arange(math.prod(sizes.values()))
        if found[2]:
            ids = ids.reshape([int(n) for n in found[2].split(",")])
            ids = ids.transpose([int(n) for n in found[3].split(",")] if found[3] else range(ids.ndim))
        ids = ids.reshape(list(sizes.values()))
        names = list(sizes)
        still = [i for i, n in enumerate(names) if n not in along]
        moved = ids.transpose([*still, *(names.index(n) for n in along)])
        return moved.reshape(-1, math.prod(sizes[n] for n in along))
    if (found := _LIST.search(text)) and found[1]:
        return np.array([[int(n) for n in row.split(",")] for row in re.findall(r"\{([\d,]+)\}", found[1])])
    return np.arange(devices)[None]


def axes_of(members: np.ndarray, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """Return the mesh axes along which the members of a group differ."""
    places = np.stack(np.unravel_index(members, list(mesh.values())))
    varies = (places != places[:, :, :1]).any(axis=(1, 2))
    return tuple(axis for axis, v in zip(mesh, varies, strict=True) if v)
