"""Plans x remat x batch, by formulas; the best few are worth a compiler's time."""

import math
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import product
from typing import Any

from llm_jax.mesh.remat import WHOLE
from llm_jax.planning.axes.shares import SHARDED
from llm_jax.planning.estimate import by_formula
from llm_jax.planning.topology import Topology
from llm_jax.planning.workload import Workload
from llm_jax.run.sections import Mesh

HEADROOM = 0.9  # of the memory: the formulas do not know every temporary


def candidates(w: Workload, topology: Topology) -> Iterator[Workload]:
    """Every mesh of the axes that a recipe can set, remat, and batches near the given.

    The tokens of a step may halve or double twice: they are a choice of speed against learning.
    """
    settable = {"slice", *(f.name for f in fields(Mesh))}
    choices = [r for r in dict.fromkeys((*WHOLE, w.remat)) if r != "none" or "activations" not in w.offload]
    for mesh in meshes(w, topology.devices // topology.slices, settable):
        whole = {"slice": topology.slices, **mesh}
        rows = topology.devices // mesh["tensor"] // mesh["context"]
        for batch in sorted({w.batch_size * n // 4 for n in (1, 2, 4, 8, 16)}):
            if batch and batch % (rows * w.microbatches) == 0:
                yield from (replace(w, mesh=whole, remat=remat, batch_size=batch) for remat in choices)


def meshes(w: Workload, devices: int, settable: set[str]) -> Iterator[dict[str, int]]:
    """Every division of a slice's devices among its axes.

    tensor: within 16, dividing the widths. context: within 64, at least 1024 positions each. expert: dividing the
    experts. stage: dividing the layers, within 16. An axis that no section sets stays 1.
    """
    most = {
        "tensor": math.gcd(w.kv_width // 64 or 1, w.hidden),
        "context": w.seq_len // 1024, "expert": w.experts, "stage": w.layers,
    }  # fmt: skip
    limits = {"tensor": 16, "context": 64, "expert": 256, "stage": 16}
    names = [axis for axis in most if axis in settable]
    choices = [[n for n in _divisors(most[axis] or 1) if n <= limits[axis] and devices % n == 0] for axis in names]
    for sizes in product(*choices):
        left, rest = divmod(devices, math.prod(sizes))
        if rest == 0:
            chosen = {axis: 1 for axis in most} | dict(zip(names, sizes, strict=True))
            yield from ({"data": left // n, SHARDED: n, **chosen} for n in _divisors(left))


def ranked(w: Workload, topology: Topology) -> list[tuple[Workload, dict[str, Any]]]:
    """Return the candidates that fit by formula, fastest a token first."""
    found = [(c, by_formula(c, topology)) for c in candidates(w, topology)]
    fitting = [(c, p) for c, p in found if p["bytes"] <= HEADROOM * p["usable_bytes"]]
    return sorted(fitting, key=lambda pair: (pair[1]["step_s"] / pair[0].batch_size, pair[1]["bytes"]))


def overrides(w: Workload) -> list[str]:
    """The flags that make a recipe this candidate."""
    settable = {f.name for f in fields(Mesh)}
    mesh = [f"--config.mesh.{a}={n}" for a, n in w.mesh.items() if a in settable]
    return [*mesh, f"--config.mesh.remat={w.remat}", f"--config.data.batch_size={w.batch_size}"]


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
