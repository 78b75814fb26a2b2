"""A step's work and memory from formulas alone: for a search, for GPUs without their compiler, and to check against.

FSDP gathers each layer's weights in the compute dtype before each of its passes, and scatters (or sums) gradients
once; tensor parallelism sums two activations a layer and pass; data parallelism sums gradients (Rajbhandari et al.
2020; Shoeybi et al. 2019; "How to Scale Your Model", ch. 5). Activations a layer: Korthikanti et al. 2022, §4.
"""

import math
from dataclasses import dataclass

from llm_jax.mesh.plan import RULES
from llm_jax.planning.collectives import Traffic, sent
from llm_jax.planning.roofline import Work
from llm_jax.planning.topology import Topology
from llm_jax.planning.workload import Workload

SHARDED = RULES["embed"][0]  # the mesh axis over which parameters are fully sharded
RECOMPUTED = {"none": 0.0, "dots": 0.05, "offload": 0.5, "full": 1.0}
"""The share of the forward pass that is computed again. `offload` is of other programs: they keep the projections of
attention on the host."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one device by kind."""

    params: float
    optimizer: float
    gradients: float
    activations: float
    temporaries: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.params + self.optimizer + self.gradients + self.activations + self.temporaries


def work(w: Workload, topology: Topology) -> Work:
    """Return the work of a step of a workload, with attention that keeps no scores."""
    chips, passes = topology.chips, 3 + RECOMPUTED[w.remat]
    flops = w.flops_causal * w.tokens_per_step / chips * passes / 3
    return Work(flops, memory_traffic(w, topology), tuple(traffic(w)))


def memory_traffic(w: Workload, topology: Topology) -> float:
    """Bytes that cross a chip's HBM: weights in each pass, activations in and out of each product, the optimizer."""
    tensor, size = w.mesh.get("tensor", 1), _size(w)
    passes = 3 + RECOMPUTED[w.remat]
    local = w.tokens_per_step / _rows(w)
    weights = size * w.parameters / tensor * passes * w.microbatches * 2
    activations = size * local * w.layers * (10 * w.width + (2 * w.width + 3 * w.hidden + 2 * w.kv_width) / tensor)
    logits = 4 * 3 * local * w.vocab_size / tensor
    update = 4 * w.parameters / _shards(w) * (2 * (1 + w.slots) + 2)
    return weights + activations * passes + logits + update


def traffic(w: Workload) -> list[Traffic]:
    """Return a step's collectives by formula."""
    fsdp, tensor, data = (w.mesh.get(a, 1) for a in (SHARDED, "tensor", "data"))
    slices, size, m = w.mesh.get("slice", 1), _size(w), w.microbatches
    part = w.parameters / tensor * size
    found = []
    if fsdp > 1:
        # Once forwards and once backwards: what is computed again shares its weights with the gradient.
        found.append(_row("all-gather", (SHARDED,), 2 * m * part, fsdp))
        found.append(_row("reduce-scatter", (SHARDED,), m * part, fsdp))
    if tensor > 1:
        local = w.tokens_per_step / _rows(w) * w.width * size
        sums = 2 * w.layers * (2 + RECOMPUTED[w.remat])
        found.append(_row("all-reduce", ("tensor",), sums * local, tensor))
    if data > 1:
        found.append(_row("all-reduce", ("data",), part / fsdp * m, data))
    if slices > 1:
        found.append(_row("all-reduce", ("slice",), part / fsdp, slices))
    return found


def _row(kind: str, axes: tuple[str, ...], whole: float, size: int) -> Traffic:
    return Traffic(kind, axes, 0, whole, sent(kind, whole, size))


def memory(w: Workload) -> Memory:
    """Return the bytes of a device."""
    tensor, size, shards = w.mesh.get("tensor", 1), _size(w), _shards(w)
    local = w.tokens_per_step / _rows(w) / w.microbatches
    each = {
        "full": w.width, "offload": 0.0,
        "dots": 3 * w.width + (w.width + 2 * w.kv_width + 2 * w.hidden) / tensor,
        "none": 8 * w.width + (3 * w.width + 4 * w.kv_width + 4 * w.hidden) / tensor,
    }  # fmt: skip
    layer = (w.parameters - w.table_parameters) / w.layers / tensor
    one_layer = size * local * (8 * w.width + (3 * w.width + 4 * w.kv_width + 4 * w.hidden) / tensor)
    logits = 2 * 4 * w.vocab_size / tensor * (1024 if w.chunked_loss else local)
    return Memory(
        params=4 * w.parameters / shards, optimizer=4 * w.slots * w.parameters / shards,
        gradients=4 * w.parameters / shards, activations=size * local * w.layers * each[w.remat],
        temporaries=one_layer + logits + 4 * size * layer + size * w.table_parameters / tensor,
    )  # fmt: skip


def _size(w: Workload) -> int:
    return 2 if w.compute_dtype == "bfloat16" else 4


def _rows(w: Workload) -> int:
    return math.prod(w.mesh.get(a, 1) for a in w.mesh if a not in ("tensor", "expert", "stage"))


def _shards(w: Workload) -> int:
    return math.prod(n for a, n in w.mesh.items() if a not in ("slice", "data", "context"))
