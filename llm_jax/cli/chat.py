"""chat: talk with a model in the terminal."""

import contextlib
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llm_jax.cli.flags import Parser, add_huge_pages, add_step, add_workdir, with_huge_pages
from llm_jax.core import checks
from llm_jax.core.table import UserError

if TYPE_CHECKING:
    from llm_jax.run.texts.conversation import Conversation

DRAWN = ("tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")
ANSWER = 512  # tokens of an answer at most, unless --tokens says otherwise; half of a window that is too small for it
COMMANDS = "/reset begins anew, /quit or Ctrl-D ends, Ctrl-C interrupts an answer"


def run(arguments: Sequence[str]) -> int:
    """Answer one message, or as many as come."""
    flags = read(arguments)
    with_huge_pages(not flags.no_huge_pages)
    from llm_jax.run.parts.sampling import Sample

    given = {name: value for name in DRAWN if (value := getattr(flags, name)) is not None}
    given |= {"temperature": 0.0} if flags.greedy else {}
    Sample(**given)  # a wrong value is told before the workdir is looked for
    talk = opened(flags, given)
    if flags.message is None:
        converse(talk)
    else:
        say(talk, flags.message)
    return 0


def read(arguments: Sequence[str]) -> Namespace:
    """Return the flags.

    Raises:
        UserError: unknown flags, or values that cannot be.
    """
    parser = Parser("chat", f"Talk with a model; defaults are those of its config.sample. In the chat, {COMMANDS}.")
    add_workdir(parser)
    add_step(parser)
    parser.add_argument("--message", help="answer this one message and leave")
    parser.add_argument("--system", help="what the model is told before everything")
    parser.add_argument("--tokens", type=int, help=f"of an answer at most (default: {ANSWER})")
    parser.add_argument("--temperature", type=float, help="divides the logits")
    parser.add_argument("--top_k", type=int, help="only the k most probable tokens")
    parser.add_argument("--top_p", type=float, help="only the most probable tokens up to this probability")
    parser.add_argument("--min_p", type=float, help="only tokens this probable beside the best one")
    parser.add_argument("--repetition_penalty", type=float, help="above 1: what was said is less likely")
    parser.add_argument("--greedy", action="store_true", help="always the most probable token")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    add_huge_pages(parser)
    flags, overrides = parser.read(arguments)
    if overrides:
        raise UserError("chat takes the configuration of the workdir; --config overrides belong to train")
    checks.non_negative("sample", seed=flags.seed)
    if flags.message is not None and not flags.message.strip():
        raise UserError('--message is empty; say something, such as --message="What is the capital of France?"')
    return flags


def opened(flags: Namespace, given: dict[str, Any]) -> "Conversation":
    """Return the conversation that a workdir and the flags make.

    Raises:
        UserError: the workdir has no chat template, tokenizer or checkpoint, or its model no room for an answer.
    """
    from llm_jax.decode.sample import unstacked
    from llm_jax.run.config import construct
    from llm_jax.run.open_run import open_run
    from llm_jax.run.parts.sampling import SEARCHING, Sample
    from llm_jax.run.texts.conversation import Conversation
    from llm_jax.run.texts.prompts import decoding

    found = open_run(flags.workdir)
    place = found.workdir
    if found.template is None:
        raise UserError(
            f"{flags.workdir} has no {place.template.name}, which says how turns are written; import a model that "
            "chats, put the template there, or continue texts with `sample`"
        )
    words, model = found.tokenizer, decoding(found.model)
    stated = (getattr(model, "max_positions", None), found.context)
    window = min((n for n in stated if isinstance(n, int)), default=found.resolved.values["data"]["seq_len"])
    section = found.resolved.values["sample"] | SEARCHING | {"tokens": min(ANSWER, window // 2)} | given
    params = unstacked(model, found.params(flags.step))
    return Conversation(
        model, params, words, found.template, construct(Sample, section), seed=flags.seed,
        stops=found.stops, window=window, system=flags.system,
    )  # fmt: skip


def say(talk: "Conversation", text: str) -> None:
    """Write an answer as it is made; the first time that turns find no room, say so."""
    before = talk.dropped
    for number, piece in enumerate(talk.answer(text)):
        if number == 0 and talk.dropped and not before:
            print("llm_jax chat: the conversation is longer than the model reads; its oldest turns are left out from "
                  "now on (/reset begins anew)", file=sys.stderr)  # fmt: skip
        sys.stdout.write(piece)
        sys.stdout.flush()
    print(flush=True)


def converse(talk: "Conversation") -> None:
    """Answer lines until there are no more."""
    with contextlib.suppress(ImportError):  # gives `input` an editor of lines
        import readline  # noqa: F401
    asked = "> " if sys.stdin.isatty() else ""
    print(COMMANDS, file=sys.stderr)
    while True:
        try:
            text = input(asked).strip()
            if text == "/quit":
                return
            if text == "/reset":
                talk.turns.clear()
                print("the conversation begins anew", file=sys.stderr)
            elif text.startswith("/"):
                print(f"{text.split()[0]} is not a command: {COMMANDS}", file=sys.stderr)
            elif text:
                say(talk, text)
        except EOFError:
            return
        except KeyboardInterrupt:
            print("\ninterrupted; /quit or Ctrl-D ends the chat", file=sys.stderr)
        except UserError as error:
            print(f"llm_jax chat: {error}", file=sys.stderr)
