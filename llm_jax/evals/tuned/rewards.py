"""Rewards of texts by programs that check them, and the suite `reward`: what a model gets for its likeliest answers."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from llm_jax.core.table import UserError, lookup
from llm_jax.core.types import Conditional, Decodes
from llm_jax.data.examples.forms import Form
from llm_jax.data.examples.records import Record
from llm_jax.data.tasks import reasoning
from llm_jax.evals import generation
from llm_jax.evals.bootstrap import bootstrap
from llm_jax.evals.perplexity import Estimate
from llm_jax.evals.suites.case import Case

Verifier = Callable[[str, Record], float]

# How an answer is checked: (form, name and options of the source) -> ((answer, record) -> reward).
VERIFIERS = {
    "exact": "llm_jax.evals.tuned.rewards:exact",
    "reasoning": "llm_jax.evals.tuned.rewards:by_task",
}


def exact(form: Form, source: str, options: Mapping[str, Any]) -> Verifier:
    """Return 1 for the answer that stands in the record, up to white space around it, and 0 for any other."""
    return lambda answer, record: float(answer.strip() == form.texts(record)[-1].strip())


def by_task(form: Form, source: str, options: Mapping[str, Any]) -> Verifier:
    """Return what the task of reasoning-gym gives.

    Raises:
        UserError: the records are of another source.
    """
    if source != "reasoning":
        raise UserError(
            f'objective.verifier="reasoning" scores items of data.source="reasoning", not of {source!r}; '
            'take objective.verifier="exact"'
        )
    return reasoning.scorer(options)


def reward(
    form: Form, source: str, options: Mapping[str, Any], verifier: str = "exact", answer: str | None = None
) -> Verifier:
    """Return (text, record) -> the reward of a text, a finite number.

    Args:
        form: how records are asked.
        source, options: where they are from.
        verifier: a key of `VERIFIERS`.
        answer: a regular expression whose first group (or else all of it), in its last match, is the answer; a text
            without a match gets 0. None: the answer is the whole text, without white space around it.

    Raises:
        UserError: no such verifier; in a call, the verifier fails or gives no finite number, the item being named.
    """
    check = lookup(VERIFIERS, verifier, "objective.verifier")(form, source, options)

    def rewarded(text: str, record: Record) -> float:
        found = text.strip()
        if answer is not None:
            *_, last = [None, *re.finditer(answer, text)]
            if last is None:
                return 0.0
            found = last.group(1 if last.re.groups else 0) or ""
        try:
            value = float(check(found, record))
        except Exception as error:  # a verifier is anyone's code
            raise UserError(
                f"{record.name}: objective.verifier={verifier!r} fails on the answer {found!r:.80}: "
                f"{type(error).__name__}: {error}; leave the item out, or mend the verifier"
            ) from error
        if not math.isfinite(value):
            raise UserError(
                f"{record.name}: objective.verifier={verifier!r} gives {value} for the answer {found!r:.80}; "
                "a reward is a finite number; leave the item out, or mend the verifier"
            )
        return value

    return rewarded


def rewarded(argument: str) -> Callable[[Case], dict[str, Estimate]]:
    """Return what tells `reward`, the mean of the likeliest answers to held-out questions, and `ended`: how many end.

    Raises:
        UserError: it has an argument.
    """
    if argument:
        raise UserError(f"reward:{argument}: this suite asks a run's own held-out questions; write reward alone")
    return judged


def judged(case: Case) -> dict[str, Estimate]:
    """Return the estimates of a case.

    Raises:
        UserError: it has no questions whose answers are checked, or its model does not continue them.
    """
    checked, loader, model = case.checked(), case.loader(), case.reader()
    if checked is None or loader is None:
        raise UserError(
            'the suite "reward" needs held-out questions: data.form={"name": "prompts"} or "chat_prompts", and a '
            "data.source of examples that holds some out"
        )
    if isinstance(model, Conditional) or not isinstance(model, Decodes):
        raise UserError(f"model.name={type(model).__name__.lower()!r} does not continue questions; take a decoder")
    words, stops = case.reading.tokenizer, checked.stops
    batches = [(batch["item"], list(generation.pairs(batch))) for batch in loader.once(case.rows, limit=case.limit)]
    most = checked.tokens or max(len(pair.reference) for _, asked in batches for pair in asked)
    found = []
    for items, asked in batches:
        made = generation.written(
            model, case.params, asked, max_new_tokens=most, stop_ids=stops, vocab_size=words.vocab_size
        )
        for item, ids in zip(items, made, strict=False):  # padding rows come last, and are not asked
            text = words.decode(i for i in ids if i not in stops)
            found.append([checked.reward(text, checked.records[item]), bool(ids) and ids[-1] in stops])
    got, ended = np.array(found, np.float64).T
    return {"reward": bootstrap(np.mean, got), "ended": bootstrap(np.mean, ended)}
