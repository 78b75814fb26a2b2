"""Processes on this machine that train together, each with its share of the CPU's devices, through gloo."""

from llm_jax.core.table import UserError
from llm_jax.launch.job import Command, Job
from llm_jax.run.targets import Local

PORT = "<PORT>"  # chosen anew at each start: a free one


def commands(job: Job, section: Local, python: str = "python", port: str = PORT) -> list[Command]:
    """Return the command of each rank, with the variables by which `mesh.join` finds the others.

    Raises:
        UserError: the job names chips, of which this machine has its own.
    """
    if job.slices is not None:
        raise UserError("--on=local runs on this machine's devices; leave out --topology and --slices")
    address = f"127.0.0.1:{port}"
    made = []
    for rank in range(section.ranks):
        env: dict[str, str] = {}
        if section.ranks > 1:
            env |= {
                "JAX_COORDINATOR_ADDRESS": address, "JAX_COORDINATOR_BIND_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(section.ranks), "JAX_PROCESS_ID": str(rank), "JAX_PLATFORMS": "cpu",
            }  # fmt: skip
        if section.devices is not None:
            env |= {"JAX_NUM_CPU_DEVICES": str(section.devices)}
        made.append(Command(job.train(python), f"rank {rank}", env=tuple(env.items())))
    return made
