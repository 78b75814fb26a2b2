"""How this process learns that it is one of several, and finds the others, before any device is touched.

jax detects Slurm, Open MPI 4 and TPU hosts itself; what it does not know (an indexed Kubernetes job or a JobSet
without TPUs, Open MPI 5, our own local launcher) is read from the environment here.
"""

import contextlib
import os
import sys
import traceback
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from llm_jax.core.table import UserError

HEARTBEAT = 10  # seconds after which a silent process counts as dead
EXPLICIT = {"cluster_detection_method": "deactivate"}
FIRST_PORT, PORTS = 61440, 4096  # of the coordinator, where only a job's number says which


def found(environ: Mapping[str, str], on_tpu: bool = False) -> dict[str, Any] | None:
    """Return the arguments of jax.distributed.initialize that the environment asks for; None for a single process.

    Args:
        environ: the variables.
        on_tpu: whether this is a host of TPUs.

    Raises:
        UserError: the environment says that there are several processes, but not where the first one is.
    """
    for known in (_told, _job_of_kubernetes, _open_mpi, _slurm):  # mpirun within a Slurm job leaves Slurm's too
        arguments = known(environ)
        if arguments is not None:
            return arguments if arguments.get("num_processes", 2) > 1 else None
    return _tpu(environ) if on_tpu else None


def _told(environ: Mapping[str, str]) -> dict[str, Any] | None:
    """Everything said outright, as the local launcher does."""
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    if not all(environ.get(name) for name in names):
        return None
    return _explicit(environ[names[0]], _number(environ, names[1]), _number(environ, names[2]))


def _job_of_kubernetes(environ: Mapping[str, str]) -> dict[str, Any] | None:
    """Pods of an indexed Job, or of several in a JobSet: (job, pod) count as one number."""
    if "JOB_COMPLETION_INDEX" not in environ or "JAX_NUM_PROCESSES" not in environ:
        return None
    count, pod = _number(environ, "JAX_NUM_PROCESSES"), _number(environ, "JOB_COMPLETION_INDEX")
    job = _number(environ, "JOB_INDEX") if "JOB_INDEX" in environ else 0
    pods = _number(environ, "PROCESSES_IN_JOB") if "PROCESSES_IN_JOB" in environ else count
    return _explicit(environ.get("JAX_COORDINATOR_ADDRESS"), count, job * pods + pod)


def _slurm(environ: Mapping[str, str]) -> dict[str, Any] | None:
    """A task of `srun`; the batch script itself has no step and is no task."""
    if not all(name in environ for name in ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")):
        return None
    if _number(environ, "SLURM_NTASKS") < 2:
        return {"num_processes": 1}
    return {"cluster_detection_method": "slurm"}


def _open_mpi(environ: Mapping[str, str]) -> dict[str, Any] | None:
    """A process of `mpirun`: version 4 says where the first one is, version 5 only to processes of one host."""
    if "OMPI_COMM_WORLD_SIZE" not in environ:
        return None
    count, rank = _number(environ, "OMPI_COMM_WORLD_SIZE"), _number(environ, "OMPI_COMM_WORLD_RANK")
    if count > 1 and "OMPI_MCA_orte_hnp_uri" in environ:
        return {"cluster_detection_method": "ompi"}
    where = environ.get("JAX_COORDINATOR_ADDRESS")
    if where is None and environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == str(count):
        job = environ.get("PMIX_NAMESPACE", "").encode()
        where = f"127.0.0.1:{FIRST_PORT + zlib.crc32(job) % PORTS}"
    return _explicit(where, count, rank)


def _tpu(environ: Mapping[str, str]) -> dict[str, Any] | None:
    """TPU hosts: Kubernetes says in variables how many there are, a TPU VM in the metadata that jax reads."""
    if environ.get("JAX_PLATFORMS", "tpu").split(",")[0] != "tpu":
        return None
    listed = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
    if listed is not None:
        slices = _number(environ, "MEGASCALE_NUM_SLICES") if environ.get("MEGASCALE_NUM_SLICES") else 1
        several = "," in listed or slices > 1
        return {"cluster_detection_method": "gketpu"} if several else None
    return None if "TPU_SKIP_MDS_QUERY" in environ else {"cluster_detection_method": "gcetpu"}


def _explicit(where: str | None, count: int, rank: int) -> dict[str, Any]:
    if count > 1 and not where:
        raise UserError(
            f"this is process {rank} of {count}, and nothing says where the first one is; set JAX_COORDINATOR_ADDRESS="
            "HOST:PORT in all of them (mpirun -x JAX_COORDINATOR_ADDRESS=…)"
        )
    if not 0 <= rank < max(count, 1):
        raise UserError(f"this is process {rank} of {count}, and processes count from 0; mend the job's variables")
    return {"coordinator_address": where, "num_processes": count, "process_id": rank, **EXPLICIT}


def _number(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ[name])
    except (KeyError, ValueError):
        raise UserError(f"the environment's {name}={environ.get(name, '')!r} must be a whole number") from None


def join() -> bool:
    """Find the run's other processes, once, before any device is touched; return whether there are any.

    Raises:
        UserError: as `found`.
    """
    import jax
    from jax._src import cloud_tpu_init  # the only place that says whether this host has TPUs and touches none

    if jax.distributed.is_initialized():
        return True
    arguments = found(os.environ, cloud_tpu_init.running_in_cloud_tpu_vm)
    if arguments is None:
        return False
    # Not recoverable: such processes do not wait for each other's end, so that the first one's ends the others by an
    # abort; and where a collective hangs as its peer is gone, it is the heartbeat that ends this process.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(**arguments, heartbeat_timeout_seconds=HEARTBEAT)
    return True


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Join the run's other processes; an error in this one of several is told, and ends it at once.

    Leaving as Python does would wait for the others, which wait for this one in a collective: whoever started them is
    to start all of them again, from the last checkpoint.

    Raises:
        UserError: as `join`; and whatever is raised inside, where there is one process.
    """
    several = join()
    try:
        yield
    except BaseException as error:
        if not several:
            raise
        code, told = 1, traceback.format_exc()
        if isinstance(error, UserError):
            code, told = 2, f"llm_jax: {error}"
        elif isinstance(error, KeyboardInterrupt):
            code, told = 130, "llm_jax: interrupted; the last checkpoint stands"
        print(told, file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(code)
