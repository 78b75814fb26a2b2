"""Plans x remat x batch, by formulas; the best few are worth a compiler's time."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from llm_jax.mesh.plan import REMAT
from llm_jax.planning.analytic import SHARDED
from llm_jax.planning.estimate import by_formula
from llm_jax.planning.topology import Topology
from llm_jax.planning.workload import Workload

HEADROOM = 0.9  # of the memory: the formulas do not know every temporary


def candidates(w: Workload, topology: Topology) -> Iterator[Workload]:
    """Every mesh of data, fsdp and tensor (tensor within 16, dividing the widths), remat, and batches near the given.

    The tokens of a step may halve or double twice: they are a choice of speed against learning.
    """
    per_slice = topology.devices // topology.slices
    for tensor in _divisors(math.gcd(per_slice, math.gcd(w.kv_width // 64 or 1, w.hidden))):
        for fsdp in _divisors(per_slice // tensor):
            if tensor > 16:
                continue
            mesh = {"slice": topology.slices, "data": per_slice // tensor // fsdp, SHARDED: fsdp, "tensor": tensor}
            rows = topology.devices // tensor
            for batch in sorted({w.batch_size * n // 4 for n in (1, 2, 4, 8, 16)}):
                if batch and batch % (rows * w.microbatches) == 0:
                    yield from (replace(w, mesh=mesh, remat=remat, batch_size=batch) for remat in REMAT)


def ranked(w: Workload, topology: Topology) -> list[tuple[Workload, dict[str, Any]]]:
    """Return the candidates that fit by formula, fastest a token first."""
    found = [(c, by_formula(c, topology)) for c in candidates(w, topology)]
    fitting = [(c, p) for c, p in found if p["bytes"] <= HEADROOM * p["usable_bytes"]]
    return sorted(fitting, key=lambda pair: (pair[1]["step_s"] / pair[0].batch_size, pair[1]["bytes"]))


def overrides(w: Workload) -> list[str]:
    """The flags that make a recipe this candidate."""
    mesh = [f"--config.mesh.{a}={n}" for a, n in w.mesh.items()]
    return [*mesh, f"--config.mesh.remat={w.remat}", f"--config.data.batch_size={w.batch_size}"]


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
