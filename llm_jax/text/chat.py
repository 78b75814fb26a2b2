"""Conversations as token ids: a chat template rendered, its control tokens as ids, all that people wrote as plain text.

A template writes turns with control tokens ("<|im_start|>user\\n…"), and whoever types the same characters must not
begin a turn. Messages are therefore marked before they are rendered: a character that occurs nowhere else is put after
the first character of each such literal, and taken out after the control tokens have been found.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_jax.core.table import UserError
from llm_jax.text import template as program
from llm_jax.text.base import Tokenizer

Message = Mapping[str, str]  # "role" (system, user, assistant) and "content"

LONGEST = 1 << 17  # characters of a template; the longest in use have about 2**14
GROWTH, ROOM = 4, 1 << 20  # a rendered chat has at most GROWTH × its messages + ROOM characters
CLOCK = 30  # seconds for one rendering on a busy machine; its own limit is processor time
UNUSED = [*range(0xFDD0, 0xFDF0), *range(0xF0000, 0xF8000)]  # code points that no text means anything by
KEPT = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TZ")  # of the environment; a malloc made for jax would not fit


def render(
    template: str, messages: Sequence[Message], names: Mapping[str, str] | None = None, *, answer: bool = True
) -> str:
    """Return a conversation as the template writes it, up to where the next answer begins (unless not `answer`).

    Args:
        template: in jinja2's language.
        messages: the turns, oldest first.
        names: further names of the template, such as bos_token.

    Raises:
        UserError: the template is too long, wrong, refuses these messages, or takes too much time, memory or room.
    """
    if len(template) > LONGEST:
        raise UserError(f"the chat template has {len(template)} characters; at most {LONGEST} are read")
    values = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": answer, **(names or {})}
    most = GROWTH * sum(len(m["content"]) for m in messages) + ROOM
    found = _apart({"template": template, "values": values, "most": most})
    if "error" in found:
        raise UserError(f"the chat template refuses this conversation: {found['error']}")
    return str(found["text"])


def _apart(request: Mapping[str, Any]) -> dict[str, str]:
    """Run the program of `template` on a request; what it breaks or uses up is not ours."""
    command = [sys.executable, "-I", str(Path(program.__file__))]
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    try:
        done = subprocess.run(
            command, input=json.dumps(request), capture_output=True, text=True, timeout=CLOCK, env=kept
        )
        found: dict[str, str] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        raise UserError(
            f"the chat template was stopped: it needs more than {program.SECONDS} s or {program.MEMORY >> 20} MiB, or "
            "broke its interpreter; put a sound one into the workdir's chat_template.jinja"
        ) from None
    return found


def encode(template: str, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Return the ids of a conversation, up to where the next answer begins.

    Control tokens that the template writes are their ids; in a message the same characters are plain text.

    Raises:
        UserError: as for `render`.
    """
    used = template + "".join(m["content"] for m in messages)
    mark = next(chr(point) for point in UNUSED if chr(point) not in used)
    return read(written(template, tokenizer, messages, mark), tokenizer, mark)


def written(
    template: str, tokenizer: Tokenizer, messages: Sequence[Message], mark: str, *, answered: bool = False
) -> str:
    """Return a conversation as the template writes it, with `mark` in what must be read as plain text.

    answered: the last message is the beginning of the answer that is wanted, and ends the text.

    Raises:
        UserError: as for `render`; or the template does not write the beginning of the answer as it is.
    """
    names = {i.id: literal for literal, i in tokenizer.added.items() if i.control}
    roles = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
    known = {role: names[i] for role, i in roles.items() if i is not None and i in names}
    marked = [{**m, "content": _marked(m, tokenizer, mark)} for m in messages]
    if not answered:
        return render(template, marked, known)
    text, last = render(template, marked, known, answer=False), marked[-1]["content"].strip()
    if last not in text:
        raise UserError(f"the chat template changes the beginning of an answer, {last[:40]!r}, which cannot go on then")
    return text[: text.rindex(last) + len(last)]


def _marked(message: Message, tokenizer: Tokenizer, mark: str) -> str:
    """Return the content such that no control token is found in it, however a template cuts and joins it.

    The model's own answers are marked only where they hold a whole control token, as templates look into them.
    """
    if not tokenizer.added:
        return message["content"]
    if message["role"] == "assistant":
        whole = _either([literal for literal, added in tokenizer.added.items() if added.control])
        return re.sub(whole, lambda found: found[0][0] + mark + found[0][1:], message["content"])
    starts = _either({literal[0] for literal in tokenizer.added})
    return re.sub(starts, lambda found: found[0] + mark, message["content"])


def read(text: str, tokenizer: Tokenizer, mark: str) -> list[int]:
    """Return the ids of a written conversation: control tokens where they stand, the text between without marks."""
    ids: list[int] = []
    end = 0
    for found in re.finditer(_controls(tokenizer), text) if tokenizer.added else ():
        ids += _plain(text[end : found.start()], tokenizer, mark)
        ids.append(tokenizer.added[found[0] if found[0] in tokenizer.added else found[0].strip()].id)
        end = found.end()
    return ids + _plain(text[end:], tokenizer, mark)


def _plain(text: str, tokenizer: Tokenizer, mark: str) -> list[int]:
    """Return the ids of a text that holds no control token.

    Where a marked literal is one that the tokenizer takes out of any text, it is cut after its first character.
    """
    taken = [literal for literal, added in tokenizer.added.items() if not added.control and len(literal) > 1]
    starts = {literal[0] for literal in tokenizer.added}
    shapes = ["".join(c + mark if c in starts else c for c in literal) for literal in taken]
    parts = (
        re.split("|".join(f"(?<={re.escape(s[:2])})(?={re.escape(s[2:])})" for s in shapes), text) if shapes else [text]
    )
    return [int(i) for part in parts if part for i in tokenizer.encode(part.replace(mark, ""))]


def _controls(tokenizer: Tokenizer) -> str:
    """Return the expression of control tokens, with the white space that some take along."""
    control = {literal: added for literal, added in tokenizer.added.items() if added.control}
    by_length = sorted(control, key=len, reverse=True)
    return "|".join(
        r"\s*" * control[t].left + re.escape(t) + r"\s*" * control[t].right for t in by_length
    ) or r"(?!)"  # fmt: skip


def _either(literals: Any) -> str:
    return "|".join(map(re.escape, sorted(literals, key=len, reverse=True))) or r"(?!)"
