"""The section `launch`: how the process is started, and what each target of the verb `launch` needs."""

from dataclasses import dataclass, field

from llm_jax.core import checks


@dataclass(frozen=True)
class Local:
    """This machine: how many processes, and how many CPU devices each simulates (None: one)."""

    ranks: int = 1
    devices: int | None = None

    def __post_init__(self) -> None:
        checks.positive("launch.local", ranks=self.ranks, devices=self.devices)


@dataclass(frozen=True)
class Slurm:
    """A batch job: `man sbatch` has the words. python: the interpreter on the nodes, with this package's environment.

    nodes and gpus_per_node: without a GPU topology. tasks_per_node: by default one for each GPU. directory: that the
    job runs in, with the code; by default the one that it is submitted from.
    """

    partition: str | None = None
    nodes: int | None = None
    account: str | None = None
    time: str | None = None
    gpus_per_node: int = 0
    tasks_per_node: int | None = None
    cpus_per_task: int | None = None
    directory: str | None = None
    python: str = "python"

    def __post_init__(self) -> None:
        numbers = {"nodes": self.nodes, "tasks_per_node": self.tasks_per_node, "cpus_per_task": self.cpus_per_task}
        checks.positive("launch.slurm", **numbers)
        checks.non_negative("launch.slurm", gpus_per_node=self.gpus_per_node)


@dataclass(frozen=True)
class TpuVm:
    """TPU VMs of a project in a zone. keep: leave them, and their bill, when training has ended.

    runtime: the software of the hosts (None: what goes with the chips).
    """

    project: str | None = None
    zone: str | None = None
    runtime: str | None = None
    network: str | None = None
    service_account: str | None = None
    spot: bool = False
    reserved: bool = False
    keep: bool = False


@dataclass(frozen=True)
class Gke:
    """A cluster of Kubernetes with JobSet. image: has this package as its working directory.

    context: of kubectl (None: the current one). queue: of Kueue. priority: a priority class.
    """

    image: str | None = None
    namespace: str = "default"
    context: str | None = None
    queue: str | None = None
    priority: str | None = None
    service_account: str | None = None
    spot: bool = False


@dataclass(frozen=True)
class Launch:
    """How the run is started: with huge pages for malloc on Linux CPUs, or not; and what each target of `launch` needs.

    restarts: how often it is started again after a preemption or a crash.
    """

    huge_pages: bool = True
    restarts: int = 10
    local: Local = field(default_factory=Local)
    slurm: Slurm = field(default_factory=Slurm)
    tpu_vm: TpuVm = field(default_factory=TpuVm)
    gke: Gke = field(default_factory=Gke)

    def __post_init__(self) -> None:
        checks.non_negative("launch", restarts=self.restarts)
