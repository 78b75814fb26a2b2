"""Suites: what else a model is asked than the likelihood of its held-out text.

A suite is a function `argument -> (case -> estimates)`: the argument, written after a colon ("choices:quiz.jsonl"), is
read and checked before anything runs, and the same question is then put to a model as often as one likes.
"""

from collections.abc import Callable, Mapping, Sequence

from llm_jax.core.table import UserError, lookup
from llm_jax.evals.perplexity import Estimate
from llm_jax.evals.suites.case import Case

SUITES = {
    "calibration": "llm_jax.evals.suites.calibrated:calibrated",
    "choices": "llm_jax.evals.suites.choices:choices",
    "domains": "llm_jax.evals.suites.domains:domains",
    "fairness": "llm_jax.evals.suites.groups:groups",
    "reward": "llm_jax.evals.tuned.rewards:rewarded",
    "robustness": "llm_jax.evals.suites.robustness:robustness",
}

Suite = Callable[[Case], dict[str, Estimate]]


def check_names(words: Sequence[str], what: str) -> None:
    """Refuse a suite that there is none of, or that is named twice.

    Raises:
        UserError: names `what` it was given by.
    """
    for number, word in enumerate(words):
        if not isinstance(word, str):
            raise UserError(f'{what}: {word!r} is no name; write a list such as ["domains", "choices:quiz.jsonl"]')
        lookup(SUITES, word.partition(":")[0], what)
        if word in words[:number]:
            raise UserError(f"{what}: {word!r} is given twice; give it once")


def open_suites(words: Sequence[str], what: str) -> Mapping[str, Suite]:
    """Return the suites that "NAME" or "NAME:ARGUMENT" ask for, by that word.

    Raises:
        UserError: one is not known, or its argument is missing or wrong; a bad row is named by file and line.
    """
    check_names(words, what)
    parts = [(word, *word.partition(":")[::2]) for word in words]
    return {word: lookup(SUITES, name, what)(argument) for word, name, argument in parts}
