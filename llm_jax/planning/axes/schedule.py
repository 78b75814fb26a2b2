"""Pipelines: M microbatches go round a ring of S stages r times (Narayanan et al. 2021, §2.2)."""

from llm_jax.planning.workload import Workload


def flow(w: Workload) -> tuple[int, int, int]:
    """Return (stages, microbatches, repeats); by default at most four microbatches a stage."""
    stages = w.mesh.get("stage", 1)
    return stages, (w.pipeline_microbatches or 4 * stages) if stages > 1 else 1, w.pipeline_repeats


def ticks(w: Workload) -> int:
    """Turns of the ring: in each a stage computes one group of layers on one microbatch."""
    stages, parts, repeats = flow(w)
    return repeats * parts + stages - 1 if stages > 1 else 1


def bubble(w: Workload) -> float:
    """The share of the time in which a stage has nothing to do: (S-1) / (r·M + S-1)."""
    stages, _, _ = flow(w)
    return (stages - 1) / ticks(w)


def turns(w: Workload) -> float:
    """How often a stage goes through all of its layers in a pass, idle ticks included."""
    return ticks(w) / w.pipeline_repeats
