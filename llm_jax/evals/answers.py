"""Typed texts in, what a model with a head for labels says of them out, read just as the examples that it learnt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from llm_jax.core.table import UserError
from llm_jax.core.types import Model, Params
from llm_jax.data.examples.forms import Around
from llm_jax.data.examples.labelled import Labelled
from llm_jax.data.examples.records import Record, Records
from llm_jax.data.examples.tagged import Tagged
from llm_jax.text.normalize import normalize

ROWS = 32  # texts of a batch


@dataclass(frozen=True)
class Reader:
    """What a typed text becomes. normalization: the options of `text.normalize` of the run's data."""

    form: Labelled | Tagged
    around: Around
    normalization: dict[str, Any]

    def record(self, text: str, number: int) -> Record:
        """Return a text as a record, with any label.

        Raises:
            UserError: it is empty, or no two texts with a tab between them where the model learnt of two.
        """
        name, form = f"text {number}", self.form
        if isinstance(form, Tagged):
            words = normalize(text, **self.normalization).split()
            return Record({form.words: words, form.tags: [form.classes[0]] * len(words)}, name)
        fields = [form.text] if form.second is None else [form.text, form.second]
        parts = text.split("\t") if form.second is not None else [text]
        if len(parts) != len(fields):
            raise UserError(f"{name}: this model reads two texts; put a tab between them")
        values = {f: normalize(part, **self.normalization) for f, part in zip(fields, parts, strict=True)}
        return Record({**values, form.label: form.names[0] if form.classes else 0.0}, name)

    def batch(self, texts: Sequence[str], first: int) -> dict[str, np.ndarray]:
        """Return the fields of texts, a row each; `first` is the number of the first one."""
        found = [self.record(text, n) for n, text in enumerate(texts, first)]
        form = replace(self.form, long="cut") if self.form.long == "drop" else self.form
        records = Records("typed", lambda: found)
        made = form.encode(records, self.around.words, None)
        rows = np.arange(len(texts))
        return form.rows(made, records, self.around, evaluation=True).gather(rows, np.zeros_like(rows))


def scorer(model: Model, params: Params, reader: Reader) -> Callable[[Sequence[str]], list[np.ndarray]]:
    """Return texts -> the scores of each: float32 [C], of tags [words, C]; of a number [1].

    Raises (when called):
        UserError: a text is empty, or longer than the examples were and those were not cut.
    """
    run = jax.jit(lambda batch: model.apply(params, batch).extras["scores"])

    def scores(texts: Sequence[str]) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        for start in range(0, len(texts), ROWS):
            few = list(texts[start : start + ROWS])
            batch = reader.batch(few, start + 1)
            count = 1 if len(few) == 1 else ROWS  # two shapes are compiled
            padded = {k: np.pad(v, ((0, count - len(few)), *((0, 0),) * (v.ndim - 1))) for k, v in batch.items()}
            made = np.asarray(run(padded))[: len(few)]
            tagged = isinstance(reader.form, Tagged)
            found += [row[w > 0] if tagged else row for row, w in zip(made, batch["weights"], strict=True)]
        return found

    return scores


def told(scores: np.ndarray, labels: Sequence[str], words: Sequence[str] = ()) -> str:
    """Return scores as one line: the class and its probability, the number, or each word with its tag."""
    if not labels:
        return f"{scores[0]:.4f}"
    if scores.ndim == 2:
        return " ".join(f"{word}/{labels[best]}" for word, best in zip(words, scores.argmax(-1), strict=False))
    odds = np.exp(scores - scores.max())
    best = int(scores.argmax())
    return f"{labels[best]}  {odds[best] / odds.sum():.4f}"
