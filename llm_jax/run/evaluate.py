"""Evaluation and samples of a run, during training and from a workdir."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from llm_jax.adapt.adapted import merged
from llm_jax.core.types import Batch, Model, Params
from llm_jax.data.loader import Loader
from llm_jax.decode.beam import Beams
from llm_jax.decode.sample import unstacked
from llm_jax.evals import generation
from llm_jax.evals.perplexity import Estimate
from llm_jax.mesh import hosts
from llm_jax.run.build import Run
from llm_jax.run.judge import suites
from llm_jax.run.judge.kinds import Judge, told
from llm_jax.run.texts.continued import continuations, ended
from llm_jax.run.texts.prompts import decoding
from llm_jax.run.writers import Metrics
from llm_jax.store.workdir import Workdir
from llm_jax.text.base import Tokenizer


def held_out(
    judge: Judge,
    params: Params,
    loader: Loader,
    rows: int,
    limit: int | None = None,
    beside: Callable[[Batch], Batch] = lambda batch: batch,
) -> dict[str, Estimate]:
    """Return the estimates of parameters on a loader's rows, `rows` at a time, over at most `limit` batches.

    `beside` adds to a batch what it is judged by beside the model. Where rows go on from batch to batch, the text is
    read in `rows` runs, each from nothing: one at a time is the whole text in one go.
    """
    batches = loader.once(rows, *hosts.share(rows), limit, runs=judge.empty is not None)
    sums = judge.of(params, rows)
    return judge.merge(lambda batch: hosts.whole(sums(beside(hosts.to_devices(batch, rows)))), batches)


class Written(NamedTuple):
    """A text that a model wrote from a source, and the one that stands there."""

    source: str
    text: str
    reference: str


def written(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    loader: Loader,
    rows: int,
    *,
    beams: Beams | None = None,
    tokens: int | None = None,
    stops: Sequence[int] = (),
    limit: int | None = None,
) -> Iterator[Written]:
    """Yield what a model writes for each pair of a loader's rows, `rows` at a time, over at most `limit` batches.

    Texts have at most `tokens` tokens, by default as many as a row. The references are the rows' own, cut where these
    are.

    Raises:
        UserError: the model writes no texts, or the rows are no pairs.
    """
    writer = decoding(model)
    params = unstacked(writer, params)
    for batch in loader.once(rows, limit=limit):
        pairs = list(generation.pairs(batch))
        most = tokens or batch["targets"].shape[1]
        made = generation.written(
            writer, params, pairs, max_new_tokens=most, beams=beams, stop_ids=stops, vocab_size=tokenizer.vocab_size
        )
        for pair, ids in zip(pairs, made, strict=True):
            read = pair.prompt if pair.source is None else pair.source
            source = tokenizer.decode(i for i in read if i < tokenizer.vocab_size)
            yield Written(source, *(tokenizer.decode(ended(part, tokenizer)) for part in (ids, pair.reference)))


def values(found: Mapping[str, Estimate]) -> dict[str, float]:
    """Return estimates as a row of the metrics: their values, and what errors there are."""
    errors = {f"{name}_error": e.error for name, e in found.items() if math.isfinite(e.error)}
    return {name: e.value for name, e in found.items()} | errors


def due(run: Run, step: int) -> bool:
    """Whether held-out data are judged after a step: every so many steps, or where so many epochs end."""
    every, epochs = run.sections.eval.every, run.sections.eval.epochs
    ends = epochs and epochs_at(run, step) // epochs > epochs_at(run, step - 1) // epochs
    return bool(ends or (every and step % every == 0))


def epochs_at(run: Run, step: int) -> float:
    """Return how often a run has seen its training split after a step."""
    return step * run.sections.data.batch_size / run.data.train.examples_per_epoch


def reported(run: Run, judge: Judge, step: int, found: Mapping[str, Estimate]) -> str:
    """Return what is said of the estimates after a step: a line, and a table where classes are judged."""
    when = f"epoch {epochs_at(run, step):.4g}, step {step}" if run.sections.eval.epochs else f"step {step}"
    line = f"{when}  held-out {told(judge, found)}"
    return line if judge.table is None else f"{line}\n\n{judge.table(found)}\n"


def beside(
    run: Run,
    workdir: Workdir,
    step: int,
    params: Params,
    limit: int | None,
    metrics: Metrics,
    say: Callable[[str], None],
) -> None:
    """Ask the suites of a run, and continue its prompts."""
    suites.during(run, step, params, limit, metrics, say)
    write_samples(run, workdir, step, params, say)


def write_samples(run: Run, workdir: Workdir, step: int, params: Params, say: Callable[[str], None]) -> None:
    """Continue the run's prompts and keep the texts in samples/STEP.txt."""
    if not run.sections.sample.prompts:
        return
    model, params = merged(run.model, params)
    section, seed = run.sections.sample, run.config.values["seed"]
    texts = continuations(model, params, run.tokenizer, section, seed=seed, stops=run.stops)
    if hosts.is_first():
        workdir.samples.mkdir(parents=True, exist_ok=True)
        (workdir.samples / f"{step}.txt").write_text("\n\n---\n\n".join(texts) + "\n")
        say("\n".join(["", *texts, ""]))
