"""How long a step takes: compute, memory, links between chips and the network between slices, each work over bandwidth.

Memory traffic overlaps with compute, so that the longer of them counts (Williams et al. 2009); of the time on links and
between slices, a share is exposed. That share and the efficiency of matrix products are fitted to published runs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from llm_jax.planning.collectives import Traffic
from llm_jax.planning.topology import Topology

EFFICIENCY, EXPOSED = 0.76, 0.5
"""The share of the peak that a step's FLOPs reach, and of the time on links that nothing hides: fitted by
`benchmarks.planning`, whose document states the errors."""


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
    exposed: float = EXPOSED

    @property
    def step(self) -> float:
        """What is expected."""
        return max(self.compute, self.hbm) + self.exposed * (self.ici + self.dcn)

    @property
    def bounds(self) -> tuple[float, float]:
        """The step if all overlapped, and if nothing did."""
        return max(self.compute, self.hbm, self.ici, self.dcn), self.compute + self.hbm + self.ici + self.dcn

    @property
    def binds(self) -> str:
        """Which is the longest."""
        named = {"compute": self.compute, "HBM": self.hbm, "ICI": self.ici, "DCN": self.dcn}
        return max(named, key=lambda name: named[name])


def times(
    work: Work, topology: Topology, mesh: Mapping[str, int], *, efficiency: float = EFFICIENCY, exposed: float = EXPOSED
) -> Times:
    """Return the seconds of a step's parts."""
    chip = topology.chip
    ici = dcn = 0.0
    for row in work.traffic:
        inner = [axis for axis in row.axes if axis != "slice"]
        if inner:
            ici += row.sent / bandwidth(topology, math.prod(mesh[a] for a in inner), math.prod(mesh.values()))
        if "slice" in row.axes:  # what is left to cross slices: a share of each device's part
            dcn += row.sent / math.prod(mesh[a] for a in inner) / chip.dcn
    return Times(work.flops / chip.flops / efficiency, work.memory / chip.hbm_bandwidth, ici, dcn, exposed)


def bandwidth(topology: Topology, size: int, devices: int) -> float:
    """Bytes a second that one chip sends in a ring collective of `size` chips.

    A group takes as many axes of the torus as it fills, each with a link's bandwidth both ways; one that fills none is
    a line, which has half. On GPUs a group within a host has NVLink, a larger one the network card.
    """
    chip = topology.chip
    if chip.kind.startswith("NVIDIA"):
        return chip.link if size <= topology.dims[-1] else chip.dcn
    filled, left = 0, size
    for n in sorted(topology.dims, reverse=True):
        if left >= n and n > 1:
            filled, left = filled + 1, left // n
    return chip.link * (filled if filled else 0.5)


def utilization(model_flops: float, seconds: float, topology: Topology) -> float:
    """MFU: model FLOPs of a step over all chips, over what their peaks would do in its time."""
    return model_flops / (seconds * topology.chips * topology.chip.flops)
