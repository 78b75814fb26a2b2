"""What a classifier says of the held-out texts, as suites about classes ask."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.core.types import Array, Batch, Model, Params
from llm_jax.data.examples.forms import Around
from llm_jax.data.examples.labelled import Labelled
from llm_jax.data.examples.records import Record, Records
from llm_jax.evals.suites.case import Case
from llm_jax.mesh import hosts
from llm_jax.objectives.labelled import heads


class Classified(NamedTuple):
    """Of N texts: the right classes int [N], the likeliest ones, and the probability of these, float64 [N]."""

    right: np.ndarray
    said: np.ndarray
    confidence: np.ndarray


def classified(case: Case) -> Classified:
    """Return what a model says of the held-out texts, in their order.

    Raises:
        UserError: nothing is held out.
    """
    found = [hosts.whole(_said(case.model, case.params, batch)) for batch in case.batches()]
    rows = np.concatenate(found).astype(np.float64)
    right, said, confidence = rows[rows[:, 0] > 0, 1:].T
    return Classified(right.astype(int), said.astype(int), confidence)


def classes(case: Case, form: Labelled, records: Sequence[Record]) -> np.ndarray:
    """Return the likeliest class of each record, int [N]; what is too long for a row is cut."""
    form, around = replace(form, long="cut"), Around(case.reading.tokenizer, case.seq_len, case.seed)
    given = Records("records", lambda: records)
    rows = form.rows(form.encode(given, around.words, None), given, around, evaluation=True)
    found = []
    for start in range(0, len(records), case.rows):
        which = np.minimum(np.arange(start, start + case.rows), len(records) - 1)  # of one shape
        found.append(np.asarray(_said(case.model, case.params, rows.gather(which, np.zeros_like(which))))[:, 2])
    return np.concatenate(found)[: len(records)].astype(int)


@partial(jax.jit, static_argnames="model")
def _said(model: Model, params: Params, batch: Batch) -> Array:
    """Return float32 [B,4]: weight, the right class, the likeliest one, its probability."""
    right, weights = heads.of_texts(batch, jnp.int32)
    odds = jax.nn.softmax(heads.scores(model.apply(params, batch, key=None)))
    return jnp.stack([weights, right, odds.argmax(-1), odds.max(-1)], axis=-1).astype(jnp.float32)
