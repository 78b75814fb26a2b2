"""What crosses links in a step, axis by axis.

Rajbhandari et al. 2020 (fsdp), Shoeybi et al. 2019 (tensor), Liu et al. 2023 and Jacobs et al. 2023 (context), Lepikhin
et al. 2020 (expert), Narayanan et al. 2021 (stage); "How to Scale Your Model", ch. 5.
"""

from llm_jax.mesh.remat import kept
from llm_jax.planning.axes import schedule
from llm_jax.planning.axes.shares import SHARDED, item, parts, size, tokens, used
from llm_jax.planning.collectives import Traffic, sent
from llm_jax.planning.topology import LIBTPU, Topology
from llm_jax.planning.workload import Workload

RECOMPUTED = {"none": 0.0, "dots": 0.05, "offload": 0.5, "full": 1.0}


def recomputed(w: Workload) -> float:
    """The part of the forward pass that is computed a second time: of kept names, the products that make the others."""
    if w.remat in RECOMPUTED:
        return RECOMPUTED[w.remat]
    projection, keys, hidden = w.width**2, w.width * w.kv_width, w.width * w.hidden
    cost = {
        "query": projection, "key": keys, "value": keys, "attention": w.seq_len * w.width, "attention_out": projection,
        "mlp_gate": hidden, "mlp_up": hidden, "mlp_out": hidden,
    }  # fmt: skip
    return 1 - sum(cost.get(name, 0) for name in kept(w.remat)) / sum(cost.values())


def repeated(w: Workload) -> bool:
    """Whether what a layer receives from other devices is received once more for the backward pass."""
    return recomputed(w) == 1 or (w.remat not in RECOMPUTED and not {"attention_out", "mlp_out"} & {*kept(w.remat)})


"""The share of the forward pass that is computed again. `offload` is of other programs: they keep the projections of
attention on the host."""


def traffic(w: Workload) -> list[Traffic]:
    """Return a step's collectives by formula."""
    axes = ((SHARDED, fsdp), ("tensor", tensor), ("context", context), ("expert", expert), ("stage", stage))
    found = [row for axis, formula in axes if size(w, axis) > 1 for row in formula(w)]
    return found + copies(w)


def compiled(w: Workload, topology: Topology) -> list[Traffic]:
    """Return a step's collectives as the compiler for a topology writes them, which for TPUs has sums for others.

    Where parameters are split over all chips of a slice, more than 32, it sums gradients and cuts them afterwards, and
    gathers parameters as a sum of zeros with each chip's own part in its place, twice the bytes of each; on the torus
    of 16x16 it gathers all but small ones. What some of the chips split is gathered, and mostly scattered
    (tests/planning/test_many_shards.py).
    """
    rows, shards = traffic(w), size(w, SHARDED)
    if topology.chip_name not in LIBTPU or shards <= 32 or shards < topology.devices // topology.slices:
        return rows
    summed = ("reduce-scatter",) if topology.dims == (16, 16) else ("reduce-scatter", "all-gather")
    return [
        _row("all-reduce", SHARDED, row.whole, w) if row.axes == (SHARDED,) and row.kind in summed else row
        for row in rows
    ]


def fsdp(w: Workload) -> list[Traffic]:
    """Weights are gathered forwards and backwards, what is computed again with the latter; gradients scattered once.

    In a pipeline that is once a turn.
    """
    passes = w.microbatches * schedule.turns(w)
    held = parts(w)
    moved = item(w) * (w.microbatches * held["tables"] + passes * (held["dense"] + held["experts"]))
    return [_row("all-gather", SHARDED, 2 * moved, w), _row("reduce-scatter", SHARDED, moved, w)]


def tensor(w: Workload) -> list[Traffic]:
    """Two sums of activations a layer forwards, two backwards, one more where the layer is computed again.

    What is computed again stops at the last product: its sum is nobody's input. The head adds a float32 one, of its
    inputs' gradients; the table of embeddings is gathered along the vocabulary, and its gradient scattered.
    """
    sums = item(w) * w.layers * (4 + repeated(w)) + 4
    table = item(w) * w.vocab_size * w.width
    return [
        _row("all-reduce", "tensor", sums * tokens(w) * w.width, w), _row("all-gather", "tensor", table, w),
        _row("reduce-scatter", "tensor", table / size(w, SHARDED), w),
    ]  # fmt: skip


def context(w: Workload) -> list[Traffic]:
    """Keys and values go round forwards and, with their gradients, backwards; `heads` exchanges them for tokens."""
    n, again = size(w, "context"), repeated(w)
    keys = 2 * tokens(w) * w.kv_width / size(w, "tensor") * item(w) * w.layers
    if w.context_by == "heads":  # queries, keys, values and results, each there and back
        whole = keys + 2 * tokens(w) * w.width / size(w, "tensor") * item(w) * w.layers
        return [_row("all-to-all", "context", (2 + again) * whole, w)]
    moved = (n - 1) * keys * (3 + again)
    return [Traffic("collective-permute", ("context",), 0, moved, moved)]


def expert(w: Workload) -> list[Traffic]:
    """Every chosen row travels to its expert and back, forwards and backwards."""
    rows = tokens(w) * w.choices * w.expert_layers * w.width * item(w)
    return [_row("all-to-all", "expert", 2 * (2 + repeated(w)) * rows, w)]


def stage(w: Workload) -> list[Traffic]:
    """Activations of a microbatch move on with each tick, and their gradients back.

    The rows of all stages are gathered before the first and dealt out after the last; the gradients likewise.
    """
    stages, microbatches, _ = schedule.flow(w)
    whole = tokens(w) * stages * w.width * item(w)
    moved = 2 * schedule.ticks(w) * whole / microbatches
    return [
        Traffic("collective-permute", ("stage",), 0, moved, moved), _row("all-gather", "stage", whole, w),
        _row("reduce-scatter", "stage", whole, w), _row("all-to-all", "stage", 2 * whole, w),
    ]  # fmt: skip


def copies(w: Workload) -> list[Traffic]:
    """Gradients of what several devices have copies of are summed over them, each device's shard of it."""
    held, shards = parts(w), size(w, SHARDED)
    own = {"data": used(w), "context": used(w), "slice": used(w)}
    own |= {"expert": held["dense"] + held["tables"], "stage": held["tables"]}
    times = {axis: 1 if axis == "slice" else w.microbatches for axis in own}
    return [
        _row("all-reduce", axis, times[axis] * item(w) * whole / shards, w)
        for axis, whole in own.items()
        if size(w, axis) > 1
    ]


def _row(kind: str, axis: str, whole: float, w: Workload) -> Traffic:
    return Traffic(kind, (axis,), 0, whole, sent(kind, whole, size(w, axis)))
