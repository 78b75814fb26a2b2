"""The plan itself: what a configuration needs and costs on a topology, as one plain dictionary."""

from dataclasses import asdict
from typing import Any

from llm_jax.core.table import UserError
from llm_jax.planning import analytic, aot, collectives, failures, hlo, roofline
from llm_jax.planning.roofline import Times, Work
from llm_jax.planning.topology import LIBTPU, TARGETS, Topology
from llm_jax.planning.workload import Workload
from llm_jax.run.config import Config

WAY_OUT = "; give --analytic for formulas"


def by_formula(w: Workload, topology: Topology) -> dict[str, Any]:
    """Return the plan that formulas alone give."""
    memory, work = analytic.memory(w), analytic.work(w, topology)
    kinds = {name: value for name, value in asdict(memory).items()}
    return _plan(w, topology, work, kinds, memory.total, source="formulas")


def by_compiler(config: Config, w: Workload, topology: Topology, *, exact: bool, timeout: float) -> dict[str, Any]:
    """Return the plan of the compiled step; one that does not fit has no program and keeps the compiler's words.

    Where GPUs' compiler is not there or fails, formulas alone answer, and `source` says why.
    """
    try:
        answer, text = aot.compiled(config, w, topology, exact=exact, timeout=timeout)
        if "error" in answer and not aot.too_large(answer["error"]):
            raise UserError(f"the compiler refused the step: {answer['error'][:600]}{WAY_OUT}")
    except UserError as error:
        if topology.chip_name in LIBTPU:
            raise
        return by_formula(w, topology) | {"source": f"formulas alone: {str(error).removesuffix(WAY_OUT)}"}
    if "error" in answer:
        return by_formula(w, topology) | {"source": "formulas", "fits": False, "compiler_error": answer["error"][:600]}
    program = hlo.parse(text)
    traffic = collectives.traffic(program, answer["mesh"])
    # A product in a custom call has no count of its own: FLOPs are ours, memory and links are the program's.
    scale = topology.devices / topology.chips
    work = Work(analytic.work(w, topology).flops, program.memory_traffic() * scale, tuple(traffic))
    state = answer["state_bytes"]
    kinds = {
        "params": state["params"], "optimizer": state["optimizer"], "learner": state["learner"],
        "batch": state["batch"], "temporaries": answer["temporary_bytes"], "code": answer["code_bytes"],
    }  # fmt: skip
    # The peak leaves out arguments that are given away; with it they are all that lives at once.
    total = max(answer["peak_bytes"], answer["argument_bytes"] + answer["temporary_bytes"])
    source = "compiler" if exact else "compiler at O1"
    if answer["without_cudnn"]:
        source += ", which lacks cuDNN: attention is by blocks"
    plan = _plan(w, topology, work, kinds, scale * total, source=source)
    return plan | {
        "compile_seconds": round(answer["compile_s"], 1), "compiler_peak_bytes": answer["peak_bytes"],
        "host_bytes": answer["host_bytes"],
        "compiler_flops_loops_once": answer["compiler_flops"],
        "product_flops": program.product_flops() if topology.chip_name in TARGETS else None,
        "largest": [{"type": t, "bytes": b, "from": f} for t, b, f in program.largest()],
        "formula_step_s": by_formula(w, topology)["step_s"],
    }  # fmt: skip


def _plan(
    w: Workload, topology: Topology, work: Work, kinds: dict[str, float], total: float, *, source: str
) -> dict[str, Any]:
    found = roofline.times(work, topology, w.mesh)
    usable = topology.chip.hbm * topology.chip.usable
    return {
        "source": source, "topology": str(topology), "chips": topology.chips,
        "mesh": {a: n for a, n in w.mesh.items() if n > 1}, "remat": w.remat, "offload": list(w.offload),
        "batch_size": w.batch_size, "seq_len": w.seq_len, "parameters": w.parameters,
        "fits": total <= usable, "bytes": total,
        "usable_bytes": usable, "bytes_by_kind": kinds, "executed_flops": work.flops,
        "memory_traffic": work.memory,
        "collectives": [asdict(row) | {"axes": list(row.axes)} for row in work.traffic],
        **_speed(w, topology, found),
    }  # fmt: skip


def _speed(w: Workload, topology: Topology, found: Times) -> dict[str, Any]:
    step = found.step
    mfu = {name: roofline.utilization(flops * w.tokens_per_step, step, topology)
           for name, flops in (("causal", w.flops_causal), ("full", w.flops_full))}  # fmt: skip
    return {
        "seconds": asdict(found), "binds": found.binds, "step_s": step, "step_bounds_s": list(found.bounds),
        "efficiency": roofline.fit(topology.chip).efficiency, "tokens_per_s": w.tokens_per_step / step,
        "tokens_per_s_chip": w.tokens_per_step / step / topology.chips, "mfu_causal": mfu["causal"],
        "mfu_full": mfu["full"], "model_flops_token_causal": w.flops_causal, "model_flops_token_full": w.flops_full,
    }  # fmt: skip


def with_budget(
    plan: dict[str, Any], w: Workload, topology: Topology, *, price: float | None, chip_mtbf: float, save: float,
    restart: float,
) -> dict[str, Any]:  # fmt: skip
    """Add what the whole training takes: days, chip-hours, money, and what failures add.

    Args:
        price: of a chip-hour; None leaves money out.
        chip_mtbf: hours between failures of one chip. save, restart: hours a checkpoint and a restart cost.
    """
    loss = failures.expected(topology.chips, chip_mtbf, save, restart)
    found: dict[str, Any] = {"failures": asdict(loss) | {"chip_mtbf": chip_mtbf, "save": save, "restart": restart}}
    found["failures"]["steps_between_saves"] = max(1, round(loss.interval * 3600 / plan["step_s"]))
    if w.tokens is not None:
        hours = w.tokens / plan["tokens_per_s"] / 3600 / loss.goodput
        found["budget"] = {"tokens": w.tokens, "days": hours / 24, "chip_hours": hours * topology.chips}
        if price is not None:
            found["budget"] |= {"price": price, "money": hours * topology.chips * price}
    return plan | found
