"""Whether a classifier treats groups of texts alike, a group being what a field of their records says."""

from collections.abc import Callable
from functools import partial

import numpy as np

from llm_jax.core.table import UserError, choices, nearest
from llm_jax.data.examples.records import Record
from llm_jax.evals.bootstrap import bootstrap
from llm_jax.evals.perplexity import Estimate, ratio
from llm_jax.evals.suites import fairness
from llm_jax.evals.suites.case import Case
from llm_jax.evals.suites.classified import classified


def groups(argument: str) -> Callable[[Case], dict[str, Estimate]]:
    """Return what tells the accuracy of each group, and the largest gaps between any two (see `fairness`).

    The argument is a field of the records, maybe with the class that is the favourable one, "kind=positive"; of two
    classes the last one is it by default. Without a favourable class there is only the gap in accuracy. Intervals are
    over texts; a gap of few texts is biased upwards.

    Raises:
        UserError: the argument is missing.
    """
    field, _, favourable = argument.partition("=")
    if not field:
        raise UserError("fairness: which groups? write fairness:FIELD, a field of the records, or fairness:FIELD=CLASS")
    return partial(_judged, field, favourable)


def _judged(field: str, favourable: str, case: Case) -> dict[str, Estimate]:
    examples = case.examples()
    if examples is None:
        raise UserError("fairness is about classes of texts; it needs a run of objective.name='classification'")
    found = classified(case)
    records = examples.records[: len(found.right)]
    if case.limit is None and len(examples.records) != len(found.right):
        raise UserError(
            f"{len(examples.records)} texts are held out, and {len(found.right)} of them were read; "
            "train with data.form.long='cut', which leaves none out, to tell their groups"
        )
    names, group = np.unique([_group(record, field) for record in records], return_inverse=True)
    if len(names) < 2:
        raise UserError(f"fairness:{field}: all texts are of the group {str(names[0])!r}; there is no gap to tell")
    told = {}
    for i, name in enumerate(names):
        hit = (found.right == found.said)[group == i].astype(float)
        told[f"accuracy/{name}"] = ratio(hit, np.ones_like(hit))
    rows = np.stack([found.right, found.said, group], axis=1)
    told["accuracy_gap"] = bootstrap(lambda drawn: fairness.accuracy_gap(*drawn.T), rows)
    if favourable or len(examples.labels) == 2:
        wanted = favourable or examples.labels[-1]
        if wanted not in examples.labels:
            raise UserError(
                f"fairness:{field}={wanted}: {wanted!r} is no class; choose one of: {choices(examples.labels)}"
            )
        best = examples.labels.index(wanted)
        binary = np.stack([found.right == best, found.said == best, group], axis=1).astype(int)
        _told_of_both(binary, names)
        told["demographic_parity"] = bootstrap(lambda drawn: fairness.demographic_parity(*_asked(drawn).T[1:]), binary)
        told["equal_opportunity"] = bootstrap(lambda drawn: fairness.equal_opportunity(*_asked(drawn).T), binary)
        told["equalized_odds"] = bootstrap(lambda drawn: fairness.equalized_odds(*_asked(drawn).T), binary)
    return told


def _group(record: Record, field: str) -> str:
    if field not in record.values:
        raise UserError(
            f"fairness:{field}: {record.name} has no field {field!r}; there are: {', '.join(record.values)}"
            f"{nearest(field, record.values)}"
        )
    return str(record.values[field])


def _asked(rows: np.ndarray) -> np.ndarray:
    """Return the rows [N,3] of right, said, group of groups that have both classes; a draw may miss one."""
    both = np.intersect1d(rows[rows[:, 0] == 1, 2], rows[rows[:, 0] == 0, 2])
    return rows[np.isin(rows[:, 2], both)]


def _told_of_both(rows: np.ndarray, names: np.ndarray) -> None:
    """Refuse a group without a row of one of the classes."""
    missing = np.setdiff1d(rows[:, 2], _asked(rows)[:, 2])
    if len(missing):
        raise UserError(
            f"group {str(names[missing[0]])!r} has no held-out text of one of the classes, whose rate is then nothing"
        )
