"""The real train step of a configuration over the devices of a topology, lowered and compiled; run as a process.

    python -m llm_jax.planning.step REQUEST.json ANSWER_DIRECTORY

A process of its own: libtpu and its flags stay out of the caller, and a compiler that dies takes nothing with it.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from llm_jax.core.types import Batch, State
from llm_jax.kernels.fused import FUSED
from llm_jax.mesh import plan as plans
from llm_jax.mesh.place import batch_sharding
from llm_jax.mesh.plan import AXES, Plan
from llm_jax.mesh.remat import HOST
from llm_jax.planning import topology as topologies
from llm_jax.planning.topology import TARGETS, Topology
from llm_jax.planning.workload import Workload, learner_of
from llm_jax.run import build
from llm_jax.run.config import Config


def devices_of(topology: Topology) -> list[Any]:
    """Return descriptions of the devices, made without any."""
    from jax.experimental.topologies import get_topology_desc

    dims = "x".join(map(str, topology.dims))
    if topology.chip_name in TARGETS:
        shape = f"{topology.slices}x{dims}"
        target = TARGETS[topology.chip_name]
        return list(get_topology_desc(platform="cuda", target_config=target, topology=shape).devices)
    more = {} if topology.slices == 1 else {"num_slices": topology.slices}
    name = f"{topologies.LIBTPU[topology.chip_name]}:{dims}"
    return list(get_topology_desc(name, platform="tpu", **more).devices)


def plan_over(config: Config, workload: Workload, topology: Topology) -> Plan:
    """Return the plan of a workload over a topology's devices."""
    devices = devices_of(topology)
    shape = plans.mesh_shape(workload.mesh, len(devices))
    array = topologies.mesh_devices(topology, shape, devices)
    mesh = Mesh(array, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    own = {"dtype": workload.compute_dtype, "remat": workload.remat, "offload": workload.offload}
    return plans.over(mesh, **{**build.parts_of(config).mesh.options(), **own})


def lower(config: Config, workload: Workload, plan: Plan, platform: str) -> tuple[Any, dict[str, int]]:
    """Return the lowered update and the bytes a device of its state, by kind."""
    learner, shardings_of = learner_of(config, workload)
    shardings = shardings_of(plan)
    assert plan.mesh is not None
    replicated = NamedSharding(plan.mesh, PartitionSpec())
    with plan.active():
        shapes: State = jax.eval_shape(lambda: learner.init(jax.random.key(0)))  # nothing can run on these devices
        state = jax.tree.map(_placed, shapes, shardings)
        batch = _batch(workload)
        update = jax.jit(learner.update, donate_argnums=0, out_shardings=(shardings, replicated))
        lowered = update.trace(state, batch).lower(lowering_platforms=(platform,))
    parts = {"params": state.params, "optimizer": state.opt, "learner": state.extra, "batch": batch}
    leaves = {
        name: [x for x in jax.tree.leaves(part) if x.sharding.memory_kind != HOST] for name, part in parts.items()
    }
    return lowered, {name: sum(map(_local_bytes, part)) for name, part in leaves.items()}


def _timed(config: Config, workload: Workload, plan: Plan, platform: str) -> tuple[Any, dict[str, int], float, float]:
    """Return the compiled update, the bytes of its state, and the seconds of lowering and of compiling it."""
    began = time.perf_counter()
    lowered, state = lower(config, workload, plan, platform)
    lowering = time.perf_counter() - began
    compiled = lowered.compile()
    return compiled, state, lowering, time.perf_counter() - began - lowering


def _placed(x: Any, sharding: Any) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _local_bytes(x: Any) -> int:
    count = 1
    for n in x.sharding.shard_shape(x.shape):
        count *= n
    return count * x.dtype.itemsize


def _batch(workload: Workload) -> Batch:
    dtypes = {name: jnp.float32 if name == "weights" else jnp.int32 for name in workload.fields}
    whole = {k: jax.ShapeDtypeStruct((workload.batch_size, workload.seq_len), d) for k, d in dtypes.items()}
    return {k: _placed(v, s) for (k, v), s in zip(whole.items(), batch_sharding(whole).values(), strict=True)}


def compile_step(request: dict[str, Any], answer: Path) -> dict[str, Any]:
    """Compile what a request asks for, write the program's text, and return what the compiler says."""
    topology = Topology(request["chip"], tuple(request["dims"]), request["slices"])
    platform = "cuda" if topology.chip_name in TARGETS else "tpu"
    if not request["exact"]:
        jax.config.update("jax_optimization_level", "O1")
    # Layers ask for the backend to choose a kernel; here it is the topology's, not this process's.
    jax.default_backend = lambda: "gpu" if platform == "cuda" else platform
    config = Config(request["config"], {})
    workload = Workload(**request["workload"])
    plan = plan_over(config, replace(workload, mesh=dict(workload.mesh)), topology)
    without = None
    try:
        compiled, state, lowering, seconds = _timed(config, workload, plan, platform)
    except RuntimeError as error:  # of jax where it looks for cuDNN, or of the compiler
        if platform != "cuda" or "cudnn" not in str(error).lower():
            raise
        FUSED.pop("gpu")  # what chooses for itself then attends by blocks
        without = f"{type(error).__name__}: {error}"
        compiled, state, lowering, seconds = _timed(config, workload, plan, platform)
    text = compiled.as_text()
    (answer / "program.txt").write_text(text)
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    return {
        "state_bytes": state, "lowering_s": lowering, "compile_s": seconds, "without_cudnn": without,
        "argument_bytes": memory.argument_size_in_bytes, "temporary_bytes": memory.temp_size_in_bytes,
        "peak_bytes": getattr(memory, "peak_memory_in_bytes", 0), "code_bytes": memory.generated_code_size_in_bytes,
        "host_bytes": memory.host_argument_size_in_bytes + memory.host_temp_size_in_bytes,
        "compiler_flops": cost.get("flops"), "mesh": dict(plan.mesh.shape) if plan.mesh else {},
    }  # fmt: skip


def main() -> int:
    """Write answer.json: what the compiler says, or its error."""
    request, answer = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    try:
        found = compile_step(request, answer)
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    (answer / "answer.json").write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
