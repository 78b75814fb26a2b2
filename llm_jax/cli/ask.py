"""ask: what a passage answers to typed questions, by a model that points at answers or writes them."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llm_jax.cli.classify import converse
from llm_jax.cli.flags import Parser, add_step, add_workdir
from llm_jax.core.table import UserError

if TYPE_CHECKING:
    from llm_jax.run.open_run import OpenRun

NONE = "(no answer)"


def run(arguments: Sequence[str]) -> int:
    """Answer one question on a passage, or each line of standard input."""
    parser = Parser(
        "ask",
        "Print the answer of a passage to a question; without --question each line of standard input "
        "(/quit or Ctrl-D ends).",
    )
    add_workdir(parser)
    add_step(parser)
    parser.add_argument("--passage", required=True, help="a file with the text that answers")
    parser.add_argument("--question", help="answer this one and leave")
    flags, overrides = parser.read(arguments)
    if overrides:
        raise UserError("ask takes the configuration of the workdir; --config overrides belong to train")
    try:
        passage = Path(flags.passage).read_text("utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"--passage={flags.passage} cannot be read: {error}") from None
    from llm_jax.run.open_run import open_run

    answered = answering(open_run(flags.workdir), flags.step)

    def answer(questions: Sequence[str]) -> list[str]:
        return [told or NONE for told in answered(questions, [passage] * len(questions))]

    if flags.question is not None:
        print(answer([flags.question])[0])
    elif sys.stdin.isatty():
        converse("ask", answer)
    else:
        for told in answer([line for line in sys.stdin.read().splitlines() if line.strip()]):
            print(told)
    return 0


def answering(opened: "OpenRun", step: int | None) -> Callable[[Sequence[str], Sequence[str]], list[str]]:
    """Return (questions, passages) -> the answers, "" where there is none.

    Raises:
        UserError: the run learnt neither to point at answers nor to write them.
    """
    from llm_jax.data.examples import forms
    from llm_jax.data.examples.pairs import Answers
    from llm_jax.data.examples.passages import Passages
    from llm_jax.evals.tuned import answered, spans
    from llm_jax.run.texts.prompts import decoding
    from llm_jax.text.normalize import normalize

    data = opened.resolved.values["data"]
    form = forms.build(data["form"]) if data["form"] else None
    around = forms.Around(opened.tokenizer, data["seq_len"], opened.resolved.values["seed"])
    if isinstance(form, Passages):
        answer = spans.answering(opened.model, opened.params(step), form, around)
    elif isinstance(form, Answers):
        answer = answered.answering(decoding(opened.model), opened.params(step), form, around, opened.stops)
    else:
        raise UserError(
            f"{opened.workdir.path} learnt no answers: data.form={data['form']}; ask needs a run of the form "
            '"passages", with objective.name="spans", or "answers"'
        )
    clean = partial(normalize, **data["normalization"])
    return lambda questions, passages: answer(list(questions), list(map(clean, passages)))
