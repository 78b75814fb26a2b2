"""Judging spans that answer questions: whether they are the right ones, and how much they share with them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.core.types import Array, Batch, Model, Params
from llm_jax.data.examples.forms import Around
from llm_jax.data.examples.passages import Passages
from llm_jax.data.examples.records import Record, Records
from llm_jax.evals.perplexity import Estimate, ratio
from llm_jax.objectives.labelled import heads, spans

MOST = 30  # tokens of an answer


def said(model: Model, params: Params, batch: Batch, most: int = MOST) -> Array:
    """Return the likeliest span of each row, int32 [B,2]; (0, 0) is no answer."""
    return spans.best(spans.ends(heads.scores(model.apply(params, batch, key=None)), batch), most)


def rows(model: Model, params: Params, batch: Batch) -> Array:
    """Return float32 [B,1,4]: the weight of a row, its nats, and its exact match and F1, by tokens."""
    scores = spans.ends(heads.scores(model.apply(params, batch, key=None)), batch)
    right, weights = spans.of_rows(batch)
    found = spans.best(scores, MOST)
    shared = jnp.minimum(found[:, 1], right[:, 1]) - jnp.maximum(found[:, 0], right[:, 0]) + 1
    sizes = (found[:, 1] - found[:, 0] + 1) + (right[:, 1] - right[:, 0] + 1)
    exact = jnp.all(found == right, axis=-1)
    columns = [weights, spans.nats(scores, right), exact, 2 * jnp.maximum(shared, 0) / sizes]
    return jnp.stack(columns, axis=-1).astype(jnp.float32)[:, None]


def matches(sums: Callable[[Batch], Array], batches: Iterable[Batch]) -> dict[str, Estimate]:
    """Return `loss` (nats a question), and `exact` match and `f1` of the tokens of the answers.

    Args:
        sums: batch -> [B,1,4], `rows` with model and parameters bound, jitted.
        batches: every row once; padding has weight 0.
    """
    found = np.concatenate([np.asarray(sums(batch), np.float64)[:, 0] for batch in batches])
    weights, nats, exact, f1 = found[found[:, 0] > 0].T
    return {
        "loss": ratio(nats * weights, weights), "exact": ratio(exact * weights, weights),
        "f1": ratio(f1 * weights, weights),
    }  # fmt: skip


def answering(
    model: Model, params: Params, form: Passages, around: Around, most: int = MOST
) -> Callable[[Sequence[str], Sequence[str]], list[str]]:
    """Return (questions, passages) -> answers as they stand in the passages, "" where there is none.

    Raises (when called):
        UserError: a text is empty, or both are longer than the rows of the run.
    """
    run = jax.jit(partial(said, model, most=most))

    def answers(questions: Sequence[str], passages: Sequence[str]) -> list[str]:
        if not questions:
            return []
        none: dict[str, list] = {"text": [], "answer_start": []}
        records = [
            Record({form.question: q, form.context: p, form.answers: none}, f"question {i}")
            for i, (q, p) in enumerate(zip(questions, passages, strict=True), 1)
        ]
        strict, listed = replace(form, long="error"), Records("asked", lambda: records)
        asked, texts = map(list, zip(*map(strict.texts, records), strict=True))
        once = list(dict.fromkeys(texts))
        read = dict(zip(once, strict.located(once, around.words), strict=True))
        unknown = np.full((len(texts), 2), -1, np.int64)
        encoded = strict.arrays(asked, [read[text] for text in texts], unknown, around.words)
        made = strict.rows(encoded, listed, around, evaluation=True)
        numbers = np.arange(made.count)
        batch = made.gather(numbers, np.zeros_like(numbers))
        found = np.asarray(run(params, batch))
        starts = batch["token_types"].argmax(1)
        told = []
        for (first, last), start, passage in zip(found.tolist(), starts.tolist(), texts, strict=True):
            at = read[passage]
            told.append("" if last == 0 else passage[int(at.begins[first - start]) : int(at.ends[last - start])])
        return told

    return answers
