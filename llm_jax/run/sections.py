"""The sections of a configuration that belong to the run itself, each a frozen dataclass with its defaults.

`model`, `objective` and `optimizer` are sections too; their fields are those of the member of the table that their
`name` chooses. None means "derived", and `describe` prints what from.
"""

from dataclasses import dataclass, field, fields
from typing import Any

from llm_jax.adapt import ADAPTERS
from llm_jax.core import checks, durations
from llm_jax.core.table import UserError, choices, lookup
from llm_jax.evals.suites import check_names
from llm_jax.learn import LEARNERS
from llm_jax.mesh.plan import AXES
from llm_jax.run.parts.compression import Compress, Prune
from llm_jax.run.parts.learning import Local
from llm_jax.run.parts.privacy import Private
from llm_jax.run.parts.sampling import Sample
from llm_jax.run.targets import Launch


@dataclass(frozen=True)
class Data:
    """Where text comes from and how it becomes batches.

    source: a key of data.SOURCES, with its options; or mixture: a list of {"source", "options", "weight"}.
    normalization: the options of text.normalize. tokenizer: {"name": a key of text.TOKENIZERS, and its options}.
    packing: a key of data.PACKINGS. batch_size: rows of a step over all hosts. seq_len: tokens of a row.
    clients: for rounds of federated learning, so many clients, by the hash of each document; or client_pattern: a
    regular expression, which matches the client's name in a document's. None: no clients.
    poisson: rows of a batch on average, each row being in it or not by a draw of its own; None: each once an epoch.
    form: what is made of examples, {"name": a key of data.examples.FORMS, and its options}; None for text.
    """

    source: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    mixture: list[dict[str, Any]] | None = None
    normalization: dict[str, Any] = field(default_factory=dict)
    tokenizer: dict[str, Any] = field(default_factory=lambda: {"name": "bytes"})
    packing: str = "concatenate"
    batch_size: int = 8
    seq_len: int = 256
    clients: int | None = None
    client_pattern: str | None = None
    poisson: float | None = None
    form: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        checks.positive("data", batch_size=self.batch_size, seq_len=self.seq_len)
        checks.positive("data", clients=self.clients, poisson=self.poisson)
        if self.poisson is not None and (self.federated or self.packing == "contiguous" or self.mixture):
            raise UserError("data.poisson samples rows of one source; leave out clients, mixture, contiguous packing")
        if self.clients is not None and self.client_pattern is not None:
            raise UserError("data.clients and data.client_pattern are two ways to find the clients; give one")
        if (self.source is None) == (self.mixture is None):
            raise UserError("data needs exactly one of data.source and data.mixture")
        if not isinstance(self.tokenizer.get("name"), str):
            raise UserError('data.tokenizer needs a name, such as {"name": "bpe", "vocab_size": 4096}')

    @property
    def federated(self) -> bool:
        """Whether documents belong to clients."""
        return self.clients is not None or self.client_pattern is not None


@dataclass(frozen=True)
class Train:
    """How long, by which of learn.LEARNERS, in how many parts a batch is computed, and whether parameters are averaged.

    ema: the decay of the average; None: no average.
    """

    duration: str = "1000 steps"
    learner: str = "gradient"
    microbatches: int = 1
    ema: float | None = None

    def __post_init__(self) -> None:
        durations.parse(self.duration)
        lookup(LEARNERS, self.learner, "train.learner")
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
    """Held-out evaluation: on at most `batches` batches while training, on all at the end.

    every: so many steps; epochs: or so many epochs; both 0: only at the end. suites: what else is asked then, keys of
    evals.suites.SUITES, each with its argument: ["choices:quiz.jsonl"].
    """

    every: int = 0
    epochs: int = 0
    batches: int | None = 16
    batch_size: int | None = None
    suites: list[str] = field(default_factory=list)
    expected: Expected = field(default_factory=Expected)

    def __post_init__(self) -> None:
        check_names(self.suites, "eval.suites")
        checks.non_negative("eval", every=self.every, epochs=self.epochs)
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
class Pipeline:
    """How batches flow through the stages of `mesh.stage`.

    microbatches: parts of a batch (of each of train.microbatches), by default at most four a stage. repeats: how often
    each passes every stage.
    """

    microbatches: int | None = None
    repeats: int = 1

    def __post_init__(self) -> None:
        checks.positive("mesh.pipeline", microbatches=self.microbatches, repeats=self.repeats)


@dataclass(frozen=True)
class Mesh:
    """How many devices each mesh axis takes (-1: what the others leave), in which dtype, and what is recomputed.

    zero: what fsdp splits: 3 parameters, gradients and optimizer state, 1 only the state. context_by: how attention
    sees the tokens of other devices, `ring` or `heads`. sequence_sharded: split activations between layers over
    `tensor` along the text. quantize: int8 or fp8 for products of layers, but output head, routers and experts.
    remat: none, full, dots, or the names of what is kept for the backward pass ("attention,mlp_gate"), all else of a
    layer being computed again. offload: what waits in the host's memory, "optimizer", "activations" or both.
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
    pipeline: Pipeline = field(default_factory=Pipeline)
    compute_dtype: str = "float32"
    remat: str | list[str] = "none"
    offload: str | list[str] | None = None
    quantize: str | None = None

    def sizes(self) -> dict[str, int]:
        """The sizes of the mesh axes as given."""
        return {axis: getattr(self, axis) for axis in AXES}

    def options(self) -> dict[str, Any]:
        """The other arguments of `mesh.plan.build`."""
        return {
            "dtype": self.compute_dtype, "remat": self.remat, "offload": self.offload, "zero": self.zero,
            "context_by": self.context_by, "sequence_sharded": self.sequence_sharded, "quantize": self.quantize,
            "microbatches": self.pipeline.microbatches, "repeats": self.pipeline.repeats,
        }  # fmt: skip


@dataclass(frozen=True)
class Log:
    """How often the line and the files get a row, in steps, and which files."""

    every: int = 10
    tensorboard: bool = True

    def __post_init__(self) -> None:
        checks.positive("log", every=self.every)


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
class Adapt:
    """Few parameters that are learnt beside a model that stays as it is (`adapt.adapted`); `init_from` says which.

    name: a key of adapt.ADAPTERS, or "none". targets: regular expressions, searched in the paths of parameters; None
    for the kernels of queries and values. rank, alpha (None: the rank), dropout: as in `adapt.lora.Lora`. pack: the
    model's layers are kept in int8, int4 or nf4 (QLoRA), pack_group inputs with a scale; None for float32.
    """

    name: str = "none"
    rank: int = 8
    alpha: float | None = None
    targets: list[str] | None = None
    dropout: float = 0.0
    pack: str | None = None
    pack_group: int = 64

    def __post_init__(self) -> None:
        given = [f.name for f in fields(self) if f.name != "name" and getattr(self, f.name) != f.default]
        if self.name == "none" and given:
            value = getattr(self, given[0])
            raise UserError(f"adapt.{given[0]}={value!r} needs adapt.name, one of: {choices(ADAPTERS)}")
        for pattern in self.patterns:
            checks.pattern("adapt.targets", pattern)

    @property
    def patterns(self) -> tuple[str, ...]:
        """The targets, given or not."""
        return QUERIES_AND_VALUES if self.targets is None else tuple(self.targets)


QUERIES_AND_VALUES = (r"attention/(query|value)$",)

SECTIONS = {
    "data": Data, "train": Train, "eval": Eval, "checkpoint": Checkpoint, "mesh": Mesh, "log": Log, "sample": Sample,
    "launch": Launch, "export": Export, "local": Local, "adapt": Adapt,
    "compress": Compress, "prune": Prune, "private": Private,
}  # fmt: skip
