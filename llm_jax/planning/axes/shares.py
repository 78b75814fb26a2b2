"""Which part of the tokens and of the parameters a device has."""

import math

from llm_jax.mesh.plan import RULES
from llm_jax.planning.workload import Workload

SHARDED = RULES["embed"][0]  # the mesh axis over which parameters are fully sharded
WHOLE = ("slice", "data", "context")  # axes along which parameters are copies


def size(w: Workload, axis: str) -> int:
    """Devices along an axis."""
    return w.mesh.get(axis, 1)


def item(w: Workload) -> int:
    """Bytes of a number in the compute dtype."""
    return 2 if w.compute_dtype == "bfloat16" else 4


def tokens(w: Workload) -> float:
    """Tokens of a step on a device: every axis but `tensor` splits rows or positions."""
    return w.tokens_per_step / math.prod(n for a, n in w.mesh.items() if a != "tensor")


def parts(w: Workload) -> dict[str, float]:
    """Parameters by kind, as used: `tables` and `dense` of a device's `tensor` and `stage`, `experts` of its own."""
    tensor, stage = size(w, "tensor"), size(w, "stage")
    dense = w.parameters - w.table_parameters - w.expert_parameters
    return {
        "tables": w.table_parameters / tensor, "dense": dense / tensor / stage,
        "experts": w.expert_parameters / tensor / stage / size(w, "expert"),
    }  # fmt: skip


def used(w: Workload) -> float:
    """Parameters that a device computes with."""
    return sum(parts(w).values())


def stored(w: Workload) -> float:
    """Parameters that a device keeps."""
    return used(w) / size(w, SHARDED)
