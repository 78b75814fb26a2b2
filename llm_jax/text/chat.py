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


def render(template: str, messages: Sequence[Message], names: Mapping[str, str] | None = None) -> str:
    """Return a conversation as the template writes it, up to where the next answer begins.

    Args:
        template: in jinja2's language.
        messages: the turns, oldest first.
        names: further names of the template, such as bos_token.

    Raises:
        UserError: the template is too long, wrong, refuses these messages, or takes too much time, memory or room.
    """
    values = {"messages": messages, "add_generation_prompt": True, **(names or {})}
    return render_all(template, [values], ["this conversation"])[0]


def render_all(template: str, values: Sequence[Mapping[str, Any]], called: Sequence[str]) -> list[str]:
    """Return several conversations as the template writes them, in one process.

    Args:
        template: in jinja2's language.
        values: for each what the template's names stand for: messages, add_generation_prompt, and further ones.
        called: what an error calls each.

    Raises:
        UserError: as for `render`.
    """
    if len(template) > LONGEST:
        raise UserError(f"the chat template has {len(template)} characters; at most {LONGEST} are read")
    whole = [{"tools": None, "documents": None, **given} for given in values]
    most = [GROWTH * sum(len(m["content"]) for m in given["messages"]) + ROOM for given in values]
    answer = _apart({"template": template, "values": whole, "most": most})
    if "error" in answer:
        refused = called[len(answer["texts"])]
        raise UserError(f"the chat template refuses {refused}: {answer['error']}")
    return list(answer["texts"])


def _apart(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run the program of `template` on a request; what it breaks or uses up is not ours."""
    command = [sys.executable, "-I", str(Path(program.__file__))]
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    try:
        done = subprocess.run(
            command, input=json.dumps(request), capture_output=True, text=True, timeout=CLOCK, env=kept
        )
        found: dict[str, Any] = json.loads(done.stdout)
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
    mark = mark_of(template, messages)
    written = [{**m, "content": marked(m, tokenizer, mark)} for m in messages]
    return ids(render(template, written, control_names(tokenizer)), tokenizer, mark)


def written(
    template: str, tokenizer: Tokenizer, messages: Sequence[Message], mark: str, *, answered: bool = False
) -> str:
    """Return a conversation as the template writes it, with `mark` in what must be read as plain text.

    answered: the last message is the beginning of the answer that is wanted, and ends the text.

    Raises:
        UserError: as for `render`; or the template does not write the beginning of the answer as it is.
    """
    told = [{**m, "content": marked(m, tokenizer, mark)} for m in messages]
    names = control_names(tokenizer)
    if not answered:
        return render(template, told, names)
    values = {"messages": told, "add_generation_prompt": False, **names}
    text, last = render_all(template, [values], ["this conversation"])[0], told[-1]["content"].strip()
    if last not in text:
        raise UserError(f"the chat template changes the beginning of an answer, {last[:40]!r}, which cannot go on then")
    return text[: text.rindex(last) + len(last)]


def mark_of(template: str, messages: Sequence[Message]) -> str:
    """Return a character that stands neither in the template nor in a message."""
    used = template + "".join(m["content"] for m in messages)
    return next(chr(point) for point in UNUSED if chr(point) not in used)


def control_names(tokenizer: Tokenizer) -> dict[str, str]:
    """Return what a template calls bos_token, eos_token and pad_token, as far as there are such."""
    names = {i.id: literal for literal, i in tokenizer.added.items() if i.control}
    roles = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
    return {role: names[i] for role, i in roles.items() if i is not None and i in names}


def marked(message: Message, tokenizer: Tokenizer, mark: str) -> str:
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


def ids(text: str, tokenizer: Tokenizer, mark: str) -> list[int]:
    """Return the ids of a rendered text: control tokens where they stand, the text between without marks."""
    found_ids: list[int] = []
    end = 0
    for found in re.finditer(controls(tokenizer), text) if tokenizer.added else ():
        found_ids += _plain(text[end : found.start()], tokenizer, mark)
        found_ids.append(tokenizer.added[found[found.lastindex or 0]].id)
        end = found.end()
    return found_ids + _plain(text[end:], tokenizer, mark)


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


def controls(tokenizer: Tokenizer) -> str:
    """Return the expression of control tokens, each a group, with the white space that some take along around it."""
    control = {literal: added for literal, added in tokenizer.added.items() if added.control}
    by_length = sorted(control, key=len, reverse=True)
    return "|".join(
        r"\s*" * control[t].left + f"({re.escape(t)})" + r"\s*" * control[t].right for t in by_length
    ) or r"(?!)"  # fmt: skip


def _either(literals: Any) -> str:
    return "|".join(map(re.escape, sorted(literals, key=len, reverse=True))) or r"(?!)"
