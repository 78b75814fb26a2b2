"""How much dearer a text is when it is mistyped, in odd case, or oddly spaced, or how much harder to classify."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from llm_jax.core.table import UserError
from llm_jax.data.examples.labelled import Labelled
from llm_jax.data.examples.records import Record
from llm_jax.evals.bootstrap import bootstrap
from llm_jax.evals.perplexity import Estimate
from llm_jax.evals.suites.case import Case, Examples
from llm_jax.evals.suites.classified import classes
from llm_jax.evals.suites.perturb import PERTURBATIONS, perturbed
from llm_jax.evals.suites.texts import rolling

RATE = 0.05


def robustness(argument: str) -> Callable[[Case], dict[str, Estimate]]:
    """Return what tells `bits_per_byte` of held-out text, of each perturbation of it, and its `increase`.

    Of a classifier it is the `accuracy` on held-out texts, on each perturbation of them, and its `decrease`.

    The argument is the share of characters that are changed (of spaces, for "whitespace"), 0.05 by default. Each is
    a byte of the text that was read, changed or not.

    Raises:
        UserError: the argument is no number above 0, up to 1.
    """
    try:
        rate = float(argument) if argument else RATE
    except ValueError:
        rate = math.nan
    if not 0 < rate <= 1:
        raise UserError(f"robustness:{argument}: the argument is a rate above 0, up to 1, such as robustness:{RATE}")
    return partial(_judged, rate)


def _judged(rate: float, case: Case) -> dict[str, Estimate]:
    examples = case.examples()
    return _likelihoods(rate, case) if examples is None else _classes(rate, case, examples)


def _classes(rate: float, case: Case, examples: Examples) -> dict[str, Estimate]:
    form, records = examples.form, examples.records
    kept = records if case.limit is None else records[: case.limit * case.rows]
    right = np.array([form.number(record) for record in kept])
    plain = np.equal(classes(case, form, kept), right).astype(float)
    found = {"accuracy": bootstrap(np.mean, plain)}
    for kind in PERTURBATIONS:
        changed = [_changed(record, form, kind, rate, case.seed, i) for i, record in enumerate(kept)]
        hit = np.equal(classes(case, form, changed), right).astype(float)
        found[f"{kind}/accuracy"] = bootstrap(np.mean, hit)
        found[f"{kind}/decrease"] = bootstrap(np.mean, plain - hit)
    return found


def _changed(record: Record, form: Labelled, kind: str, rate: float, seed: int, number: int) -> Record:
    """Return a record whose texts are perturbed; one of which nothing is left stays."""
    values = dict(record.values)
    for field in (form.text, form.second):
        if field is not None and (text := perturbed(kind, values[field], rate, seed, number)).strip():
            values[field] = text
    return record._replace(values=values)


def _likelihoods(rate: float, case: Case) -> dict[str, Estimate]:
    model, read = case.reader(), case.reading
    before = [text for _, ids in case.pieces() if (text := read.tokenizer.decode(ids.tolist())).strip()]
    versions = {"": before} | {
        kind: [perturbed(kind, text, rate, case.seed, i) for i, text in enumerate(before)] for kind in PERTURBATIONS
    }
    sums = {}
    for kind, version in versions.items():
        ids = [row.tolist() for row in read.tokenizer.encode_batch(version)]
        bits = -rolling(model, case.params, ids, read.start, read.window) / math.log(2)
        sums[kind] = np.column_stack([bits, [len(text.encode()) for text in version]])
    plain = sums.pop("")
    found = {"bits_per_byte": bootstrap(_bits, plain, count=plain[:, 1].sum())}
    for kind, rows in sums.items():
        found[f"{kind}/bits_per_byte"] = bootstrap(_bits, rows, count=rows[:, 1].sum())
        both = np.stack([plain, rows], axis=1)
        found[f"{kind}/increase"] = bootstrap(_increase, both, count=rows[:, 1].sum())
    return found


def _bits(rows: np.ndarray) -> float:
    """Bits per byte of rows [N,2]."""
    bits, size = rows.sum(axis=0)
    return float(bits / size)


def _increase(rows: np.ndarray) -> float:
    """The difference in bits per byte of rows [N,2,2]: before, after."""
    return _bits(rows[:, 1]) - _bits(rows[:, 0])
