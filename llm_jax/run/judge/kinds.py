"""The kinds of judging a model on held-out rows, each an entry of `JUDGES`: what is summed, merged and told."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax

from llm_jax.core.table import lookup
from llm_jax.core.types import Adversaries, Batch, Cache, Carries, Model, Objective, Params
from llm_jax.evals import adversarial as players
from llm_jax.evals import labelled
from llm_jax.evals.perplexity import Estimate, carried_sums, perplexity, row_sums
from llm_jax.evals.tuned import preferred
from llm_jax.evals.tuned import spans as pointed
from llm_jax.run.judge import JUDGES


@dataclass(frozen=True)
class Judge:
    """How a kind of model is judged.

    sums: compiled, (params, batch) -> sums of each row. merge: (batch -> sums, batches) -> estimates. over: what the
    count of each estimate is of. units: of those estimates that have one. table: estimates -> a report of several
    lines, of what is judged by classes. empty: where rows go on from batch to batch, rows of a batch -> what stands
    before the first; `sums` then takes and returns it last.
    """

    sums: Callable[..., Any]
    merge: Callable[..., dict[str, Estimate]]
    over: Mapping[str, str]
    units: Mapping[str, str] = field(default_factory=dict)
    table: Callable[[Mapping[str, Estimate]], str] | None = None
    empty: Callable[[int], Cache] | None = None

    def of(self, params: Params, rows: int) -> Callable[[Batch], Any]:
        """Return batch of so many rows -> sums, for one pass over all batches in their order."""
        if self.empty is None:
            return partial(self.sums, params)
        past = self.empty(rows)

        def one(batch: Batch) -> Any:
            nonlocal past
            found, past = self.sums(params, batch, past)
            return found

        return one


def evaluator(model: Model, objective: Objective, learner: str) -> Judge:
    """Return how a model that learnt by an objective is judged; learner: a key of `LEARNERS`."""
    plain = "carried" if learner == "carried" and isinstance(model, Carries) else "likelihood"
    made: Judge = lookup(JUDGES, getattr(objective, "judged", plain), "judged")(model)
    return made


def likelihoods(sums: Callable[..., Any]) -> Judge:
    """By nats, tokens and bytes of rows, whatever sums them: (params, batch) -> [B,3]."""
    over = {"loss": "tokens", "perplexity": "tokens", "bits_per_byte": "bytes"}
    return Judge(sums, perplexity, over, {"loss": "nats/token", "bits_per_byte": "bits/byte"})


def likelihood(model: Model) -> Judge:
    """By the probability of the targets."""
    return likelihoods(jax.jit(partial(row_sums, model)))


def carried(model: Carries) -> Judge:
    """By the probability of the targets, each row going on where that of the batch before ended."""
    empty = jax.jit(model.empty_cache, static_argnums=(0, 1))
    judge = likelihoods(jax.jit(partial(carried_sums, model)))
    return replace(judge, empty=lambda rows: empty(rows, 1))


def adversarial(model: Adversaries) -> Judge:
    """By the losses of two players, who have no likelihood."""
    losses = ("loss", *players.COLUMNS)
    units = dict.fromkeys(("loss", "generator", "discriminator"), "nats/row")
    return Judge(jax.jit(partial(players.row_sums, model)), players.losses, dict.fromkeys(losses, "rows"), units)


def classification(model: Model) -> Judge:
    """By the classes of texts."""
    return _classes(model, labelled.texts, "text")


def tagging(model: Model) -> Judge:
    """By the tags of tokens."""
    return _classes(model, labelled.tokens, "token")


def _classes(model: Model, rows: Callable[..., Any], of: str) -> Judge:
    labels: tuple[str, ...] = model.labels  # type: ignore[attr-defined]  # such an objective gives it a head
    return Judge(
        jax.jit(partial(rows, model)), partial(labelled.classes, labels),
        dict.fromkeys(("loss", "accuracy", *labelled.KINDS), f"{of}s"), {"loss": f"nats/{of}"},
        partial(labelled.table, labels=labels),
    )  # fmt: skip


def regression(model: Model) -> Judge:
    """By the numbers of texts."""
    over = dict.fromkeys(("loss", "pearson", "spearman"), "texts")
    return Judge(jax.jit(partial(labelled.numbers, model)), labelled.regression, over)


def spans(model: Model) -> Judge:
    """By the spans that answer questions."""
    over = dict.fromkeys(("loss", "exact", "f1"), "texts")
    return Judge(jax.jit(partial(pointed.rows, model)), pointed.matches, over, {"loss": "nats/text"})


def preference(model: Model) -> Judge:
    """By which of two answers is found more probable."""
    over = {"loss": "tokens", **dict.fromkeys(preferred.RANKS, "pairs")}
    units = {"loss": "nats/token", "margin": "nats/pair"}
    return Judge(jax.jit(partial(preferred.rows, model)), preferred.ranking, over, units)


def told(judge: Judge, found: Mapping[str, Estimate]) -> str:
    """Return estimates as one line; those of single classes are told by the table."""

    def one(name: str, e: Estimate) -> str:
        error = f" ± {e.error:.4f}" if math.isfinite(e.error) else ""
        return f"{name.replace('_', ' ')} {e.value:.4f}{error} {judge.units.get(name, '')}".rstrip()

    return "  ".join(one(name, e) for name, e in found.items() if "/" not in name)
