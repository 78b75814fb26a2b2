"""ConfigDict in, objects out: one table look-up a section. Nothing below this module has ever seen a configuration."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from llm_jax.adapt.adapted import unadapted
from llm_jax.core import durations, tree
from llm_jax.core.durations import Duration
from llm_jax.core.table import UserError
from llm_jax.core.types import Batch, Counts, Declaration, Decodes, Learner, Model, Objective, Samples, State
from llm_jax.data.build import Data
from llm_jax.evals.suites import open_suites
from llm_jax.learn.accountant import Accountant
from llm_jax.learn.gradient import learnt
from llm_jax.mesh import fit
from llm_jax.mesh import plan as plans
from llm_jax.mesh.plan import Plan
from llm_jax.optim.transform import alike, schedule, transformation
from llm_jax.run import sections
from llm_jax.run.checks import batch, examples, stages, tokens
from llm_jax.run.checks import local as workers
from llm_jax.run.config import Config, construct
from llm_jax.run.parts import effort, learning
from llm_jax.run.parts.compression import Prune
from llm_jax.run.parts.models import ANY_VOCABULARY, alike_abroad, exportable, longest_text, model, objective
from llm_jax.run.parts.privacy import accountant
from llm_jax.run.parts.reading import batches, check_vocabulary, tokenizer
from llm_jax.run.targets import Launch
from llm_jax.text.base import Tokenizer
from llm_jax.text.normalize import normalize
from llm_jax.text.options import check as check_options

ANY_EPOCH = 1 << 40


@dataclass(frozen=True)
class Sections:
    """The run's own sections as dataclasses, ranges checked."""

    data: sections.Data
    train: sections.Train
    eval: sections.Eval
    checkpoint: sections.Checkpoint
    mesh: sections.Mesh
    log: sections.Log
    sample: sections.Sample
    launch: Launch
    export: sections.Export
    local: sections.Local
    adapt: sections.Adapt
    compress: sections.Compress
    prune: sections.Prune
    private: sections.Private


@dataclass(frozen=True)
class Run:
    """Everything that a run needs, built."""

    config: Config
    sections: Sections
    plan: Plan
    tokenizer: Tokenizer
    data: Data
    model: Model
    objective: Objective
    learner: Learner
    rate: Callable[[Any], Any]
    duration: Duration
    steps: int | None
    state_shardings: Any
    template: str | None = None
    stops: Sequence[int] = ()  # the ids that end a text
    accountant: Accountant | None = None
    lesson: Callable[[Batch, State], Batch] = lambda batch, state: batch  # what is made of a batch before the step
    beside: Callable[[Batch], Batch] = lambda batch: batch  # what is added to a held-out batch before it is judged
    pins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # the checkpoints of other runs that it reads

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one batch over all hosts, of rows that an objective makes of each among them."""
        each = getattr(self.objective, "group", 1)
        return self.sections.data.batch_size * self.sections.data.seq_len * each

    def spent(self, step: int) -> dict[str, float]:
        """What a private run has promised up to a step: epsilon."""
        return {} if self.accountant is None else {"epsilon": self.accountant.epsilon(step)}

    def flops_per_token(self) -> float:
        """Model FLOPs of training on one token."""
        return effort.flops_per_token(self.model, self.objective, self.sections.data.seq_len)


def check(config: Config) -> tuple[Sections, Plan]:
    """Check all that can be checked before anything is read, written or compiled.

    Raises:
        UserError: the first thing that is wrong.
    """
    values, parts = config.values, parts_of(config)
    parts.compress.refuse()
    examples.check(parts.data, objective(config), values["objective"]["name"])
    built = model(config, vocab_size=ANY_VOCABULARY)
    if parts.export.every:
        if hasattr(objective(config), "head"):
            exportable(parts.export, values, built)
        alike_abroad(values, built)
    if parts.train.learner == "em" and isinstance(built, Counts) and values["init_from"] is None:
        raise UserError(
            'train.learner="em" goes on from counts, and this model has none yet: take those of a run of '
            'train.learner="counting" with --config.init_from=WORKDIR'
        )
    declared = built.declarations()
    getattr(objective(config), "fits", lambda model: None)(built)
    plan, rows = plan_of(parts.mesh), parts.data.batch_size // parts.train.microbatches
    batch.check_judged(parts.eval.batch_size, plan.batch_shards)
    if parts.local.name == "none":  # workers have a check of their own
        batch.check(parts.data.batch_size, parts.train.microbatches, plan.batch_shards)
    judged = [] if parts.eval.batch_size is None else [parts.eval.batch_size]
    fit.check(plan, declared, [rows, *judged])
    tokens.check(parts.mesh, parts.data.seq_len, {} if plan.mesh is None else plan.mesh.shape, built)
    stages.check(plan, built, rows)
    open_suites(parts.eval.suites, "eval.suites")
    if parts.sample.prompts and not isinstance(unadapted(built), Decodes | Samples):
        raise UserError(f"sample.prompts: model.name={values['model']['name']!r} makes no texts; leave them out")
    workers.check(parts.local, parts.data, parts.train, plan, values["optimizer"], parts.adapt.name)
    length, longest = parts.data.seq_len, longest_text(config)
    if (positions := getattr(built, "max_positions", longest)) < longest:
        more = f" + {longest - length} of the objective" if longest > length else ""
        raise UserError(f"model.max_positions={positions} is below data.seq_len={length}{more}; leave it out")
    transform, _ = optimizer(config, num_steps(parts, durations.parse(parts.train.duration), ANY_EPOCH))
    whole = tree.unflatten({p: abstract(d) for p, d in declared.items()})
    jax.eval_shape(transform.init, learnt(built, whole))
    if parts.local.name != "none":
        jax.eval_shape(learner(config, parts, built, transform).init, jax.random.key(0))
    if not 0 <= values["seed"] < 1 << 32:
        raise UserError(f"seed={values['seed']} must be at least 0 and below 2^32")
    normalize("", **check_options(normalize, parts.data.normalization, "data.normalization"))
    return parts, plan


def parts_of(config: Config) -> Sections:
    """Return the run's own sections of a configuration, without asking for devices."""
    return Sections(**{name: construct(cls, config.values[name]) for name, cls in sections.SECTIONS.items()})


def plan_of(mesh: sections.Mesh) -> Plan:
    """Return the plan of a section `mesh` over the devices that are here."""
    return plans.build(mesh.sizes(), **mesh.options())


def abstract(d: Declaration) -> jax.ShapeDtypeStruct:
    """Return the shape and dtype of a declared parameter."""
    return jax.ShapeDtypeStruct(d.shape, d.dtype)


def num_steps(parts: Sections, duration: Duration, examples_per_epoch: int) -> int | None:
    """Return the number of steps of a duration; None for wall time."""
    return duration.steps(
        tokens_per_step=parts.data.batch_size * parts.data.seq_len,
        examples_per_step=parts.data.batch_size,
        examples_per_epoch=examples_per_epoch,
    )


def optimizer(config: Config, steps: int | None) -> tuple[Any, Callable[[Any], Any]]:
    """Return the optax transformation and the schedule of a configuration, which is one of steps of training."""
    often = getattr(objective(config), "updates", 1)
    steps = None if steps is None else steps * often
    values = dict(config.values["optimizer"])
    shape = dict(values.pop("schedule"))
    rate = schedule(shape.pop("name"), values.pop("learning_rate"), steps, **shape)
    if values["layer_decay"] is not None:
        built = model(config, vocab_size=ANY_VOCABULARY)
        values["stacks"] = built.stacks() if hasattr(built, "stacks") else None
    section: Prune = construct(Prune, config.values["prune"])
    made = section.around(transformation(values.pop("name"), rate, **values), config.values, steps)
    return made, rate if often == 1 else lambda step: rate(step * often)


def build(
    config: Config, *, words: Tokenizer | None = None, template: str | None = None, stops: Sequence[int] = ()
) -> Run:
    """Return the run of a configuration.

    Args:
        config: resolved.
        words: the tokenizer of a workdir that is resumed; by default it is made.
        template: the chat template, for a form that needs one and for the run's own conversations.
        stops: the ids that end a text; by default the tokenizer's own.

    Raises:
        UserError: whatever is wrong with the configuration or the data.
    """
    parts, plan = check(config)
    words = words or tokenizer(parts.data)
    check_vocabulary(config.values["model"].get("vocab_size"), words)
    loaders = batches(config, parts.data, parts.local, words, template)
    if parts.eval.suites and loaders.validation is None:
        raise UserError("eval.suites are asked where held-out text is judged, and these data hold nothing out")
    duration = durations.parse(parts.train.duration)
    steps = num_steps(parts, duration, loaders.train.examples_per_epoch)
    built = model(config, vocab_size=words.vocab_size)
    transform, rate = optimizer(config, steps)
    taught = learner(config, parts, built, transform)
    counted = accountant(parts.private, parts.train, parts.data, loaders.train.examples_per_epoch, steps)
    return Run(
        config, parts, plan, words, loaders, built, objective(config), taught, rate, duration, steps,
        shardings(plan, built.declarations(), taught), template, stops or words.stops, counted,
    )  # fmt: skip


def learner(config: Config, parts: Sections, built: Model, transform: Any) -> Learner:
    """Return the learner of a configuration."""
    return learning.learner(parts, objective(config), built, transform)


def shardings(plan: Plan, declared: Mapping[str, Declaration], learner: Learner) -> Any:
    """Return the shardings of a learner's state: parameters by their declarations, and what is kept of them."""
    if plan.mesh is None:
        return None
    with plan.active():  # a mesh may change how layers are stacked in what is kept
        abstract: State = jax.eval_shape(learner.init, jax.random.key(0))
    replicated = NamedSharding(plan.mesh, PartitionSpec())
    here = replace(plan, offload=())
    params, kept, near = (
        tree.unflatten(dict(of(declared))) for of in (plan.shardings, plan.state_shardings, here.state_shardings)
    )

    def like(part: Any, places: Any = near) -> Any:
        over = tuple(plan.spec(("worker",))) if isinstance(part, State) else ()
        return alike(part, abstract.params, places, replicated, over)

    return State(
        step=replicated, params=params, opt=like(abstract.opt, kept), key=replicated,
        extra={k: like(v) for k, v in abstract.extra.items()},
    )  # fmt: skip
