"""How long a step takes: compute, memory, links between chips and the network between slices, each work over bandwidth.

What crosses memory between fused instructions adds to compute: while a normalization or an activation waits for it, no
product runs. Of the time on links and between slices a share is exposed, and all that compute and memory cannot hide.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from llm_jax.cost.chips import Chip
from llm_jax.planning.collectives import Traffic
from llm_jax.planning.topology import Topology


@dataclass(frozen=True)
class Fit:
    """The share of its peak that a chip's products reach, and of the time on links that nothing hides."""

    efficiency: float
    exposed: float


FITS = {"TPU": Fit(0.99, 0.5), "NVIDIA": Fit(0.74, 0.1)}
"""By maker, fitted by `benchmarks.planning`, whose document states the errors, those of runs held out as well. Large
products alone reach 0.80 of an H100's peak and 0.86 of an A100's (Bekman, ml-engineering)."""


def fit(chip: Chip) -> Fit:
    """Return that of a chip's maker."""
    return next(found for maker, found in FITS.items() if chip.kind.startswith(maker))


@dataclass(frozen=True)
class Work:
    """What one chip does in a step. flops: as executed, what is computed again included."""

    flops: float
    memory: float
    traffic: tuple[Traffic, ...]


@dataclass(frozen=True)
class Times:
    """Seconds of a step, of each resource alone."""

    compute: float
    hbm: float
    ici: float
    dcn: float
    exposed: float

    @property
    def step(self) -> float:
        """What is expected."""
        links = self.ici + self.dcn
        return max(self.compute + self.hbm + self.exposed * links, links)

    @property
    def bounds(self) -> tuple[float, float]:
        """The step if all overlapped, and if nothing did."""
        return max(self.compute, self.hbm, self.ici, self.dcn), self.compute + self.hbm + self.ici + self.dcn

    @property
    def binds(self) -> str:
        """Which is the longest."""
        named = {"compute": self.compute, "HBM": self.hbm, "ICI": self.ici, "DCN": self.dcn}
        return max(named, key=lambda name: named[name])


def times(work: Work, topology: Topology, mesh: Mapping[str, int], fitted: Fit | None = None) -> Times:
    """Return the seconds of a step's parts; None for what is fitted of the topology's chips."""
    chip = topology.chip
    fitted = fitted or fit(chip)
    ici = dcn = 0.0
    for row in work.traffic:
        inner = [axis for axis in row.axes if axis != "slice"]
        size = math.prod(mesh[a] for a in inner)
        if inner:
            ici += row.sent / bandwidth(topology, size, apart(mesh, inner))
        if "slice" in row.axes:  # what is left to cross slices: a share of each device's part
            dcn += row.sent / size / chip.dcn
    compute = work.flops / chip.flops / fitted.efficiency
    return Times(compute, work.memory / chip.hbm_bandwidth, ici, dcn, fitted.exposed)


def apart(mesh: Mapping[str, int], axes: Collection[str]) -> int:
    """How far neighbours along the innermost of `axes` are from each other, in devices: the size of the axes within."""
    names = list(mesh)
    last = max(names.index(axis) for axis in axes)
    return math.prod(mesh[name] for name in names[last + 1 :])


def bandwidth(topology: Topology, size: int, stride: int = 1) -> float:
    """Bytes a second that one chip sends in a ring collective of `size` chips, each `stride` from the next.

    A group takes as many axes of the torus as it fills, each with a link's bandwidth both ways; one that fills none is
    a line, which has half. On GPUs a group within a host has NVLink. What a larger one sends enters each host once, by
    the network cards of all its members there.
    """
    chip = topology.chip
    if chip.kind.startswith("NVIDIA"):
        host = topology.dims[-1]
        return chip.link if size * stride <= host else min(chip.link, chip.dcn * min(size, max(1, host // stride)))
    filled, left = 0, size
    for n in sorted(topology.dims, reverse=True):
        if left >= n and n > 1:
            filled, left = filled + 1, left // n
    return chip.link * (filled if filled else 0.5)


def utilization(model_flops: float, seconds: float, topology: Topology) -> float:
    """MFU: model FLOPs of a step over all chips, over what their peaks would do in its time."""
    return model_flops / (seconds * topology.chips * topology.chip.flops)
