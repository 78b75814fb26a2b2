"""The sections of a configuration that belong to the run itself, each a frozen dataclass with its defaults.

`model`, `objective` and `optimizer` are sections too; their fields are those of the member of the table that their
`name` chooses. None means "derived", and `describe` prints what from.
"""

from dataclasses import dataclass, field
from typing import Any

from llm_jax.core import checks, durations
from llm_jax.core.table import UserError
from llm_jax.decode.filters import Sampling
from llm_jax.mesh.plan import AXES


@dataclass(frozen=True)
class Data:
    """Where text comes from and how it becomes batches.

    source: a key of data.SOURCES, with its options; or mixture: a list of {"source", "options", "weight"}.
    normalization: the options of text.normalize. tokenizer: {"name": a key of text.TOKENIZERS, and its options}.
    packing: a key of data.PACKINGS. batch_size: rows of a step over all hosts. seq_len: tokens of a row.
    """

    source: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    mixture: list[dict[str, Any]] | None = None
    normalization: dict[str, Any] = field(default_factory=dict)
    tokenizer: dict[str, Any] = field(default_factory=lambda: {"name": "bytes"})
    packing: str = "concatenate"
    batch_size: int = 8
    seq_len: int = 256

    def __post_init__(self) -> None:
        checks.positive("data", batch_size=self.batch_size, seq_len=self.seq_len)
        if (self.source is None) == (self.mixture is None):
            raise UserError("data needs exactly one of data.source and data.mixture")
        if not isinstance(self.tokenizer.get("name"), str):
            raise UserError('data.tokenizer needs a name, such as {"name": "bpe", "vocab_size": 4096}')


@dataclass(frozen=True)
class Train:
    """How long, in how many parts a batch is computed, and whether parameters are averaged (None: no)."""

    duration: str = "1000 steps"
    microbatches: int = 1
    ema: float | None = None

    def __post_init__(self) -> None:
        durations.parse(self.duration)
        checks.positive("train", microbatches=self.microbatches)
        checks.fraction("train", ema=self.ema)


@dataclass(frozen=True)
class Expected:
    """What a recipe is known to reach: held-out bits per byte at the end, and by how much a run may differ."""

    bits_per_byte: float | None = None
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        checks.positive("eval.expected", bits_per_byte=self.bits_per_byte, tolerance=self.tolerance)


@dataclass(frozen=True)
class Eval:
    """Held-out evaluation: every so many steps (0: only at the end), on at most `batches` batches while training."""

    every: int = 0
    batches: int | None = 16
    batch_size: int | None = None
    expected: Expected = field(default_factory=Expected)

    def __post_init__(self) -> None:
        checks.non_negative("eval", every=self.every)
        checks.positive("eval", batches=self.batches, batch_size=self.batch_size)


@dataclass(frozen=True)
class Checkpoint:
    """When to save, and what to keep: the newest `keep_last`, every `keep_every` steps for ever, the best by loss."""

    every: int = 1000
    keep_last: int = 2
    keep_every: int | None = None
    keep_best: int = 1

    def __post_init__(self) -> None:
        checks.positive("checkpoint", every=self.every, keep_last=self.keep_last, keep_every=self.keep_every)
        checks.non_negative("checkpoint", keep_best=self.keep_best)


@dataclass(frozen=True)
class Mesh:
    """How many devices each mesh axis takes (-1: what the others leave), in which dtype, and what is recomputed.

    zero: what fsdp splits: 3 parameters, gradients and optimizer state, 1 only the state. context_by: how attention
    sees the tokens of other devices, `ring` or `heads`. sequence_sharded: split activations between layers over
    `tensor` along the text. quantize: int8 or fp8 for products of layers, but output head, routers and experts.
    pipeline_microbatches: parts of a batch (of each of train.microbatches) that flow through the stages, by default at
    most four a stage. pipeline_repeats: how often each passes every stage.
    """

    slice: int = 1
    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    context: int = 1
    expert: int = 1
    stage: int = 1
    zero: int = 3
    context_by: str = "ring"
    sequence_sharded: bool = False
    pipeline_microbatches: int | None = None
    pipeline_repeats: int = 1
    compute_dtype: str = "float32"
    remat: str = "none"
    quantize: str | None = None

    def __post_init__(self) -> None:
        checks.positive(
            "mesh", pipeline_microbatches=self.pipeline_microbatches, pipeline_repeats=self.pipeline_repeats
        )

    def sizes(self) -> dict[str, int]:
        """The sizes of the mesh axes as given."""
        return {axis: getattr(self, axis) for axis in AXES}

    def options(self) -> dict[str, Any]:
        """The other arguments of `mesh.plan.build`."""
        return {
            "dtype": self.compute_dtype, "remat": self.remat, "zero": self.zero, "context_by": self.context_by,
            "sequence_sharded": self.sequence_sharded, "quantize": self.quantize,
            "microbatches": self.pipeline_microbatches, "repeats": self.pipeline_repeats,
        }  # fmt: skip


@dataclass(frozen=True)
class Log:
    """How often the line and the files get a row, in steps, and which files."""

    every: int = 10
    tensorboard: bool = True

    def __post_init__(self) -> None:
        checks.positive("log", every=self.every)


@dataclass(frozen=True)
class Sample:
    """Texts continued at each evaluation and written to samples/: which, by how many tokens, drawn how.

    The last five are those of `decode.filters.Sampling`.
    """

    prompts: list[str] = field(default_factory=list)
    tokens: int = 128
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        checks.positive("sample", tokens=self.tokens)
        self.settings()

    def settings(self) -> Sampling:
        """How a token is drawn."""
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty)


@dataclass(frozen=True)
class Export:
    """Exports during training, into exports/STEP: every so many steps (0: none), in which format and dtype."""

    every: int = 0
    format: str = "hf"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        checks.non_negative("export", every=self.every)
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise UserError(f"export.dtype={self.dtype!r} must be float32, bfloat16 or float16")


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


SECTIONS = {
    "data": Data, "train": Train, "eval": Eval, "checkpoint": Checkpoint, "mesh": Mesh, "log": Log, "sample": Sample,
    "launch": Launch, "export": Export,
}  # fmt: skip
