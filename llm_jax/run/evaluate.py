"""Evaluation and samples of a run, during training and from a workdir."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax

from llm_jax.adapt.adapted import merged
from llm_jax.core.types import Adversaries, Model, Params
from llm_jax.data.loader import Loader
from llm_jax.decode.beam import Beams
from llm_jax.decode.sample import unstacked
from llm_jax.evals import adversarial, generation
from llm_jax.evals.perplexity import Estimate, perplexity, row_sums
from llm_jax.mesh import hosts
from llm_jax.run.build import Run
from llm_jax.run.generate import continuations, decoding, ended
from llm_jax.store.workdir import Workdir
from llm_jax.text.base import Tokenizer

LIKELIHOOD = {"loss": "tokens", "perplexity": "tokens", "bits_per_byte": "bytes"}
PLAYERS = {"loss": "rows", "generator": "rows", "discriminator": "rows", "fooled": "rows"}


@dataclass(frozen=True)
class Judge:
    """How a kind of model is judged.

    sums: compiled, (params, batch) -> sums of each row. merge: (batch -> sums, batches) -> estimates. over: what the
    count of each estimate is of; what is in nats is in nats of these.
    """

    sums: Callable[..., Any]
    merge: Callable[..., dict[str, Estimate]] = perplexity
    over: Mapping[str, str] = field(default_factory=lambda: LIKELIHOOD)


def evaluator(model: Model) -> Judge:
    """Return how a model is judged: by the likelihood, or of two players by what each loses."""
    if isinstance(model, Adversaries):
        return Judge(jax.jit(partial(adversarial.row_sums, model)), adversarial.losses, PLAYERS)
    return Judge(jax.jit(lambda params, batch: row_sums(model, params, batch)))


def held_out(judge: Judge, params: Params, loader: Loader, rows: int, limit: int | None = None) -> dict[str, Estimate]:
    """Return the estimates of parameters on a loader's rows, `rows` at a time, over at most `limit` batches."""
    batches = loader.once(rows, *hosts.share(rows), limit)
    return judge.merge(lambda batch: hosts.whole(judge.sums(params, hosts.to_devices(batch, rows))), batches)


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
            yield Written(*(tokenizer.decode(ended(part, tokenizer)) for part in (read, ids, pair.reference)))


def told(model: Model, found: dict[str, Estimate]) -> str:
    """Return the estimates of a model as one line."""
    units, over = {"perplexity": "", "fooled": "", "bits_per_byte": "bits/byte"}, evaluator(model).over

    def unit(name: str) -> str:
        return units.get(name, f"nats/{over[name].removesuffix('s')}")

    return "  ".join(
        f"{n.replace('_', ' ')} {e.value:.4f} ± {e.error:.4f} {unit(n)}".rstrip() for n, e in found.items()
    )


def write_samples(run: Run, workdir: Workdir, step: int, params: Params, say: Callable[[str], None]) -> None:
    """Continue the run's prompts and keep the texts in samples/STEP.txt."""
    if not run.sections.sample.prompts:
        return
    model, params = merged(run.model, params)
    texts = continuations(model, params, run.tokenizer, run.sections.sample, seed=run.config.values["seed"])
    if hosts.is_first():
        workdir.samples.mkdir(parents=True, exist_ok=True)
        (workdir.samples / f"{step}.txt").write_text("\n\n---\n\n".join(texts) + "\n")
        say("\n".join(["", *texts, ""]))
