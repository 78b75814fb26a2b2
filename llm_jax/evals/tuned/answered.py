"""Typed questions in, the answers that a model writes out."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from llm_jax.core.types import Decodes, Params
from llm_jax.data.examples.forms import Around
from llm_jax.data.examples.pairs import Answers
from llm_jax.data.examples.records import Record, Records
from llm_jax.decode.sample import unstacked
from llm_jax.evals import generation


def answering(
    model: Decodes, params: Params, form: Answers, around: Around, stops: Sequence[int]
) -> Callable[[Sequence[str], Sequence[str]], list[str]]:
    """Return (questions, passages) -> the likeliest answers, token by token; "" where there is none.

    Raises (when called):
        UserError: a text is empty, or both are longer than the rows of the run.
    """
    words, strict = around.words, replace(form, long="error")
    params = unstacked(model, params)

    def answers(questions: Sequence[str], passages: Sequence[str]) -> list[str]:
        if not questions:
            return []
        records = [
            Record({form.question: q, form.source: p, form.target: "?"}, f"question {i}")
            for i, (q, p) in enumerate(zip(questions, passages, strict=True), 1)
        ]
        listed = Records("asked", lambda: records)
        rows = strict.rows(strict.encode(listed, words, None), listed, around, evaluation=True)
        batch = rows.gather(np.arange(rows.count), np.zeros(rows.count, np.int64))
        made = generation.written(
            model, params, list(generation.pairs(batch)), max_new_tokens=batch["targets"].shape[1], stop_ids=stops,
            vocab_size=words.vocab_size,
        )  # fmt: skip
        said = [words.decode(i for i in ids if i not in stops) for ids in made]
        return ["" if text.strip() == form.none else text for text in said]

    return answers
