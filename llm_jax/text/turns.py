"""Whole conversations as token ids, and which of them the assistant said: what instruction tuning learns.

What an answer is follows from the template itself: it begins where the conversation before it, rendered with the
header of the next answer, ends; and it ends with the first control token that the template writes after it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from llm_jax.core.table import UserError
from llm_jax.text import chat
from llm_jax.text.base import Tokenizer

AT_ONCE, CHARACTERS = 1024, 1 << 22  # renderings that share one process and its limits, and what they hold together


Asked = tuple[int, Mapping[str, Any]]  # which conversation, and what the names of the template stand for


class Taught(NamedTuple):
    """A conversation: ids int32 [N], and which are an answer's, its end included, bool [N]."""

    ids: np.ndarray
    answered: np.ndarray


def encode(
    template: str, tokenizer: Tokenizer, talks: Sequence[Sequence[chat.Message]], names: Sequence[str]
) -> list[Taught]:
    """Return the ids of whole conversations.

    Control tokens that the template writes are their ids; in a message the same characters are plain text.

    Args:
        template: in jinja2's language.
        tokenizer: of the model.
        talks: conversations, each with an answer at least.
        names: what an error calls each of them.

    Raises:
        UserError: as for `chat.render`; or the template writes a turn otherwise once another follows.
    """
    known = chat.control_names(tokenizer)
    marks = [chat.mark_of(template, talk) for talk in talks]
    marked = [
        [{**m, "content": chat.marked(m, tokenizer, mark)} for m in talk]
        for talk, mark in zip(talks, marks, strict=True)
    ]
    asked = [(i, values) for i, talk in enumerate(marked) for values in _renderings(talk, known)]
    texts: list[list[str]] = [[] for _ in talks]
    for some in _portions(asked):
        rendered = chat.render_all(template, [values for _, values in some], [names[i] for i, _ in some])
        for (i, _), text in zip(some, rendered, strict=True):
            texts[i].append(text)
    return [
        _taught(talk, rendered, tokenizer, mark, name)
        for talk, rendered, mark, name in zip(marked, texts, marks, names, strict=True)
    ]


def _portions(asked: Sequence[Asked]) -> Iterator[list[Asked]]:
    """Yield renderings in portions that one process can bear."""
    portion: list[Asked] = []
    size = 0
    for each in asked:
        longer = sum(len(message["content"]) for message in each[1]["messages"])
        if portion and (len(portion) == AT_ONCE or size + longer > CHARACTERS):
            yield portion
            portion, size = [], 0
        portion.append(each)
        size += longer
    if portion:
        yield portion


def _renderings(talk: Sequence[chat.Message], known: Mapping[str, str]) -> list[Mapping[str, Any]]:
    """Return what has to be rendered: the whole, what stands before each answer, and up to each but a last one."""
    answers = [i for i, message in enumerate(talk) if message["role"] == "assistant"]
    before = [{"messages": list(talk[:i]), "add_generation_prompt": True, **known} for i in answers]
    upto = [{"messages": list(talk[: i + 1]), "add_generation_prompt": False, **known} for i in answers]
    return [{"messages": list(talk), "add_generation_prompt": False, **known}, *before, *upto]


def _taught(
    talk: Sequence[chat.Message], rendered: Sequence[str], tokenizer: Tokenizer, mark: str, name: str
) -> Taught:
    whole, count = rendered[0], (len(rendered) - 1) // 2
    ends = re.compile(chat.controls(tokenizer))
    cuts, inside = [0], [False]
    for number, (prompt, answered) in enumerate(zip(rendered[1 : 1 + count], rendered[1 + count :], strict=True), 1):
        end = _end(ends, whole, len(prompt), answered)
        if not whole.startswith(prompt) or len(prompt) < cuts[-1] or end is None:
            raise UserError(
                f"{name}: the chat template writes answer {number} or the turns before it otherwise once others "
                "follow, so what the model has to say there is not known; give a template that only adds"
            )
        cuts, inside = [*cuts, len(prompt), end], [*inside, True, False]
    parts = [whole[a:b] for a, b in zip(cuts, [*cuts[1:], len(whole)], strict=True)]
    pieces = [chat.ids(part, tokenizer, mark) for part in parts]
    which = [np.full(len(piece), learnt) for piece, learnt in zip(pieces, inside, strict=True)]
    return Taught(np.concatenate([np.asarray(p, np.int32) for p in pieces]), np.concatenate(which))


def _end(ends: re.Pattern[str], whole: str, start: int, answered: str) -> int | None:
    """Return where an answer ends: with its first control token, or else its turn; None where that is not known."""
    turn = len(answered) if whole.startswith(answered) else None
    found = ends.search(whole, start, len(whole) if turn is None else turn)
    return turn if found is None else found.end()
