"""What is to be run, taken out of a configuration: sizes of the model and the batch, the mesh, the token budget."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax

from llm_jax.core import durations, tree
from llm_jax.core.table import UserError, lookup
from llm_jax.core.types import Learner
from llm_jax.mesh import plan as plans
from llm_jax.mesh.remat import canonical, offloaded
from llm_jax.planning.topology import Topology
from llm_jax.run import build
from llm_jax.run.checks import batch, tokens
from llm_jax.run.config import Config
from llm_jax.run.parts.effort import flops_per_token
from llm_jax.text.tokenizers import TOKENIZERS


@dataclass(frozen=True)
class Workload:
    """Plain numbers only, so that it can be written down.

    parameters: all; table_parameters: of them those of embedding and head. hidden: of the feed-forward layers, of all
    experts that a token chooses together. kv_width: of keys, heads times size. flops_*: model FLOPs of a token, of
    causal attention or of all. slots: numbers that the optimizer keeps for each parameter. tokens: the budget, None
    when the duration does not say. fields: of a batch. expert_*: parameters of all experts, layers that have them;
    experts and choices: how many there are, and to how many a token goes. context_by, pipeline_* and offload: as in
    `mesh`.
    """

    mesh: dict[str, int]
    batch_size: int
    seq_len: int
    microbatches: int
    compute_dtype: str
    remat: str
    vocab_size: int
    parameters: int
    table_parameters: int
    layers: int
    width: int
    hidden: int
    kv_width: int
    flops_causal: float
    flops_full: float
    slots: float
    tokens: float | None
    chunked_loss: bool = False
    fields: tuple[str, ...] = ("tokens", "targets")
    expert_parameters: int = 0
    expert_layers: int = 0
    experts: int = 1
    choices: float = 0.0
    context_by: str = "ring"
    pipeline_microbatches: int | None = None
    pipeline_repeats: int = 1
    offload: tuple[str, ...] = ()

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a batch over all devices."""
        return self.batch_size * self.seq_len


def of(config: Config, topology: Topology) -> Workload:
    """Return the workload of a configuration on a topology.

    Raises:
        UserError: whatever is wrong with the configuration; a step that is no descent over packed text; a mesh that
            does not fit the topology; no vocabulary.
    """
    parts = build.parts_of(config)
    _check(config, parts)
    size = _vocabulary(config)
    built = build.model(config, vocab_size=size)
    declared = built.declarations()
    mesh = plans.mesh_shape(parts.mesh.sizes(), topology.devices)
    tokens.check(parts.mesh, parts.data.seq_len, mesh, built)
    again = canonical(parts.mesh.remat)
    rows = parts.data.batch_size
    batch.check(rows, parts.train.microbatches, math.prod(mesh.get(a, 1) for a in plans.BATCH_AXES))
    length = parts.data.seq_len
    learnt = build.objective(config)
    per_token = {masked: flops_per_token(built, learnt, length, masked=masked) for masked in (True, False)}
    tables = [d for p, d in declared.items() if "vocab" in d.axes]
    queries = [d for p, d in declared.items() if p.endswith(("/query", "/query_up"))]
    keys = [d for p, d in declared.items() if p.endswith("/key")]
    ups = [d for p, d in declared.items() if p.endswith("/up")]
    hidden = [d.shape[-1] * (d.share * d.shape[1] if "expert" in d.axes else 1) for d in ups]
    packed = parts.data.packing == "first_fit" or parts.data.form is not None
    chosen = [d for d in ups if "expert" in d.axes]
    experts = [d for d in declared.values() if "expert" in d.axes and "embed" in d.axes and d.share < 1]
    return Workload(
        mesh=mesh, batch_size=rows, seq_len=length, microbatches=parts.train.microbatches,
        compute_dtype=parts.mesh.compute_dtype, remat=again, vocab_size=size,
        parameters=sum(math.prod(d.shape) for d in declared.values()),
        table_parameters=sum(math.prod(d.shape) for d in tables),
        layers=sum(d.shape[0] for d in queries) or 1, width=tables[0].shape[-1],
        hidden=round(max(hidden, default=4 * tables[0].shape[-1])),
        kv_width=math.prod(keys[0].shape[-2:]) if keys else tables[0].shape[-1],
        flops_causal=per_token[True], flops_full=per_token[False], slots=_slots(config, declared),
        tokens=_budget(parts), chunked_loss=config.values["objective"].get("cross_entropy") == "chunked",
        fields=("tokens", "targets", *(("segments", "positions", "weights") if packed else ())),
        expert_parameters=sum(math.prod(d.shape) for d in experts),
        expert_layers=sum(d.shape[0] for d in chosen), experts=max((d.shape[1] for d in chosen), default=1),
        choices=max((d.share * d.shape[1] for d in chosen), default=0.0),
        context_by=parts.mesh.context_by, pipeline_microbatches=parts.mesh.pipeline.microbatches,
        pipeline_repeats=parts.mesh.pipeline.repeats, offload=offloaded(parts.mesh.offload, again),
    )  # fmt: skip


def _check(config: Config, parts: build.Sections) -> None:
    name = config.values["objective"].get("name", "causal")
    if parts.train.learner != "gradient":
        raise UserError(
            f"train.learner={parts.train.learner}: plans are of gradient descent alone; a few steps of `train` say "
            "what this one takes"
        )
    if hasattr(build.objective(config), "transform"):
        raise UserError(
            f"objective.name={name}: plans are of batches of packed text alone, and this objective makes others of "
            "them; plan the model with --config.objective.name=causal, or run a few steps of `train`"
        )


def _vocabulary(config: Config) -> int:
    tokenizer = config.values["data"]["tokenizer"]
    size = config.values["model"].get("vocab_size") or tokenizer.get("vocab_size")
    if isinstance(size, int):
        return size
    if not lookup(TOKENIZERS, tokenizer["name"], "data.tokenizer.name").trains and tokenizer["name"] == "bytes":
        return 257
    raise UserError("model.vocab_size is not known without reading text; give --config.model.vocab_size=N")


def _slots(config: Config, declared: Any) -> float:
    """Numbers that the optimizer keeps, for each parameter."""
    transform, _ = build.optimizer(config, 10**9)
    params = tree.unflatten({p: build.abstract(d) for p, d in declared.items()})
    kept = jax.tree.leaves(jax.eval_shape(transform.init, params))
    return sum(x.size * x.dtype.itemsize / 4 for x in kept) / sum(x.size for x in jax.tree.leaves(params))


def _budget(parts: build.Sections) -> float | None:
    duration = durations.parse(parts.train.duration)
    if duration.unit in ("epochs", *durations.SECONDS):
        return None
    steps = build.num_steps(parts, duration, 1)
    return None if steps is None else float(steps * parts.data.batch_size * parts.data.seq_len)


def learner_of(config: Config, workload: Workload) -> tuple[Learner, Callable[[plans.Plan], Any]]:
    """Return the configuration's learner, and what gives its state's shardings of a plan."""
    parts = build.parts_of(config)
    model = build.model(config, vocab_size=workload.vocab_size)
    transform, _ = build.optimizer(config, 10**9)
    parts = replace(parts, train=replace(parts.train, microbatches=workload.microbatches))
    learner = build.learner(config, parts, model, transform)
    return learner, lambda plan: build.shardings(plan, model.declarations(), learner)
