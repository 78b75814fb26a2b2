"""Multiple choice from JSON lines: the answer is the choice that the model finds most probable after the question."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from llm_jax.core.table import UserError
from llm_jax.evals.bootstrap import bootstrap
from llm_jax.evals.perplexity import Estimate
from llm_jax.evals.suites import rows, texts
from llm_jax.evals.suites.calibration import binned, expected_error
from llm_jax.evals.suites.case import Case

FORM = '{"question": "…", "choices": ["…", "…"], "answer": 0}'


class Question(NamedTuple):
    """A question, its choices, the place of the right one among them, and where it stands."""

    question: str
    choices: list[str]
    answer: int
    where: str


def choices(argument: str) -> Callable[[Case], dict[str, Estimate]]:
    """Return what tells `accuracy`, `accuracy_per_byte`, and the calibration `ece` of the answers.

    The argument is a file of rows {"question", "choices", "answer"}, the answer by its place (from 0) or its text. A
    choice follows the question after a space. The second accuracy takes the choice with the most log p a byte.

    Raises:
        UserError: the argument is missing, or a row is wrong, which is named by file and line.
    """
    if not argument:
        raise UserError("choices: which questions? write choices:FILE.jsonl, with rows such as " + FORM)
    return partial(_judged, questions(argument))


def questions(path: str) -> list[Question]:
    """Return the questions of a file.

    Raises:
        UserError: there is none, or a row is wrong.
    """
    found = [_question(where, row) for where, row in rows.objects(path)]
    if not found:
        raise UserError(f"{path} holds no question; write rows such as {FORM}")
    return found


def _question(where: str, row: dict[str, Any]) -> Question:
    for name in Question._fields[:3]:
        if name not in row:
            raise UserError(f"{where}: no {name!r} in this row; write {FORM}")
    question, given, answer = (row[name] for name in Question._fields[:3])
    if not isinstance(question, str):
        raise UserError(f"{where}: question={question!r} is not a text")
    if not isinstance(given, list) or len(given) < 2 or not all(isinstance(c, str) and c.strip() for c in given):
        raise UserError(f"{where}: choices={given!r} must be a list of at least two texts")
    if isinstance(answer, str) and given.count(answer) == 1:
        answer = given.index(answer)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(given):
        raise UserError(f"{where}: answer={answer!r} is neither one of the choices nor 0 to {len(given) - 1}")
    return Question(question, given, answer, where)


def _judged(asked: list[Question], case: Case) -> dict[str, Estimate]:
    model = case.reader()
    kept = asked if case.limit is None else asked[: case.limit * case.rows]
    pairs = []
    for question in kept:
        for choice in question.choices:
            context, more = texts.pair(case.reading, question.question, f" {choice}")
            if not context or not more:
                raise UserError(f"{question.where}: {choice[:40]!r} has {len(more)} tokens; the model cannot read them")
            pairs.append((context, more))
    log_prob = texts.scores(model, case.params, pairs).log_prob
    judged = []
    for question, found in zip(kept, np.split(log_prob, np.cumsum([len(q.choices) for q in kept])[:-1]), strict=True):
        sizes = np.array([len(choice.encode()) for choice in question.choices])
        share = np.exp(found - np.logaddexp.reduce(found))
        right = [found.argmax() == question.answer, (found / sizes).argmax() == question.answer]
        judged.append([*right, share.max()])
    accuracy, per_byte, confidence = np.array(judged, np.float64).T
    return {
        "accuracy": bootstrap(np.mean, accuracy),
        "accuracy_per_byte": bootstrap(np.mean, per_byte),
        "ece": bootstrap(expected_error, binned(confidence, accuracy)),
    }
