"""ask: what a passage answers to typed questions, by a model that learnt spans."""

import sys
from collections.abc import Callable, Sequence
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
        "Print the words of a passage that answer a question; without --question each line of standard input "
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

    answer = answering(open_run(flags.workdir), passage, flags.step)
    if flags.question is not None:
        print(answer([flags.question])[0])
    elif sys.stdin.isatty():
        converse("ask", answer)
    else:
        for told in answer([line for line in sys.stdin.read().splitlines() if line.strip()]):
            print(told)
    return 0


def answering(opened: "OpenRun", passage: str, step: int | None) -> Callable[[Sequence[str]], list[str]]:
    """Return questions -> what the passage answers to each.

    Raises:
        UserError: the run learnt no spans.
    """
    from llm_jax.data.examples import forms
    from llm_jax.data.examples.passages import Passages
    from llm_jax.evals.tuned.spans import answering
    from llm_jax.text.normalize import normalize

    data, objective = opened.resolved.values["data"], opened.resolved.values["objective"]["name"]
    form = forms.build(data["form"]) if data["form"] else None
    if not isinstance(form, Passages):
        raise UserError(
            f"{opened.workdir.path} learnt objective.name={objective!r}; ask needs a run of objective.name='spans'"
        )
    around = forms.Around(opened.tokenizer, data["seq_len"], opened.resolved.values["seed"])
    answer = answering(opened.model, opened.params(step), form, around)
    text = normalize(passage, **data["normalization"])
    return lambda questions: [told or NONE for told in answer(list(questions), [text] * len(questions))]
