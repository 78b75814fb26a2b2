"""classify: what a model that learnt labels says of typed texts."""

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llm_jax.cli.flags import Parser, add_step, add_workdir
from llm_jax.core.table import UserError

if TYPE_CHECKING:
    from llm_jax.run.open_run import OpenRun


def run(arguments: Sequence[str]) -> int:
    """Answer one text, or each line of standard input."""
    parser = Parser(
        "classify",
        "Print the class of a text and its probability, its number, or the tag of each word; without --text of each "
        "line of standard input (/quit or Ctrl-D ends). Two texts have a tab between them.",
    )
    add_workdir(parser)
    add_step(parser)
    parser.add_argument("--text", help="answer this one text and leave")
    flags, overrides = parser.read(arguments)
    if overrides:
        raise UserError("classify takes the configuration of the workdir; --config overrides belong to train")
    if flags.text is not None and not flags.text.strip():
        raise UserError('--text is empty; write something, such as --text="A film to see twice."')
    from llm_jax.run.open_run import open_run

    answer = answering(open_run(flags.workdir), flags.step)
    if flags.text is not None:
        print(answer([flags.text])[0])
    elif sys.stdin.isatty():
        converse("classify", answer)
    else:
        lines = sys.stdin.read().splitlines()
        answers = iter(answer([line for line in lines if line.strip()]))
        for line in lines:
            print(next(answers) if line.strip() else "")
    return 0


def answering(opened: "OpenRun", step: int | None) -> Callable[[Sequence[str]], list[str]]:
    """Return texts -> what is said of each.

    Raises:
        UserError: the run learnt no labels.
    """
    from llm_jax.data.examples import forms
    from llm_jax.evals.answers import Reader, scorer, told

    values, model = opened.resolved.values, opened.model
    if not hasattr(opened.objective, "head"):
        raise UserError(
            f"{opened.workdir.path} learnt objective.name={values['objective']['name']!r}, which has no labels; "
            "classify needs a run of classification, regression or tagging"
        )
    data = values["data"]
    form = forms.build(data["form"])
    around = forms.Around(opened.tokenizer, data["seq_len"], values["seed"])
    reader = Reader(form, around, data["normalization"])  # type: ignore[arg-type]  # the forms that have labels
    scores = scorer(model, opened.params(step), reader)
    labels: tuple[str, ...] = model.labels  # type: ignore[attr-defined]  # such an objective gives it a head
    return lambda texts: [told(found, labels, text.split()) for text, found in zip(texts, scores(texts), strict=True)]


def converse(verb: str, answer: Callable[[Sequence[str]], list[str]]) -> None:
    """Answer lines of a terminal until there are no more; errors say which verb they are of."""
    with contextlib.suppress(ImportError):  # gives `input` an editor of lines
        import readline  # noqa: F401
    while True:
        try:
            text = input("> ").strip()
            if text == "/quit":
                return
            if text:
                print(answer([text])[0])
        except EOFError:
            print()
            return
        except UserError as error:
            print(f"llm_jax {verb}: {error}", file=sys.stderr)
