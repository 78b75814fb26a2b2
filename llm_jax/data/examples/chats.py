"""Conversations, of which the answers are learnt (Ouyang et al. 2022, §3.4)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_jax.core.table import UserError
from llm_jax.data.examples.forms import Around
from llm_jax.data.examples.ragged import Ragged, check_long, fitting, flat
from llm_jax.data.examples.records import Record, Records, text_of
from llm_jax.data.examples.taught import blank, taught_rows
from llm_jax.data.features import Fields
from llm_jax.data.kept import Arrays
from llm_jax.data.packing import Rows
from llm_jax.text import turns
from llm_jax.text.base import Tokenizer
from llm_jax.text.chat import Message

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, kw_only=True)
class Chat:
    """The form `chat`: fields tokens, targets, weights, segments, positions [B,T].

    Turns are written by the chat template of the run that is begun from. Weights are 1 on what the assistant says and
    on the control token that ends it. Several conversations stand side by side in a row and do not see each other.

    messages: name of a field with a list of {"role": system, user or assistant, "content"}; where a record has none,
    prompt and response: names of two fields with texts, and `prefix` stands before each prompt. system: what the model
    is told before a conversation that has no system message. template: path of a chat template in jinja2's language,
    instead of that of the run. long: "error", "cut" (the end) or "drop".
    """

    messages: str = "messages"
    prompt: str = "prompt"
    response: str = "response"
    prefix: str = ""
    system: str | None = None
    template: str | None = None
    long: str = "error"

    def __post_init__(self) -> None:
        check_long(self.long)

    def texts(self, record: Record) -> list[str]:
        """Return what was said."""
        return [message["content"] for message in self.conversation(record)]

    def conversation(self, record: Record) -> list[Message]:
        """Return the messages of a record.

        Raises:
            UserError: there are none, one has no role or text, or nobody answers; the message names the record.
        """
        if self.messages in record.values:
            found = messages_of(record, self.messages)
        elif self.prompt in record.values or self.response in record.values:
            found = [
                {"role": "user", "content": self.prefix + text_of(record, self.prompt, "prompt")},
                {"role": "assistant", "content": text_of(record, self.response, "response")},
            ]
        else:
            raise UserError(
                f"{record.name}: neither a field {self.messages!r} nor {self.prompt!r} and {self.response!r}; there "
                f"are: {', '.join(record.values)} (data.form.prompt and data.form.response, or data.form.messages, "
                "name the fields)"
            )
        if not any(message["role"] == "assistant" for message in found):
            raise UserError(f"{record.name}: no message is of the role 'assistant', so there is nothing to learn")
        check_turns(record, self.messages, found)
        told = [] if self.system is None or found[0]["role"] == "system" else [self.system]
        return [*({"role": "system", "content": text} for text in told), *found]

    def encode(self, records: Records, words: Tokenizer, template: str | None) -> Arrays:
        """Return ids, which of them are learnt, and starts of the conversations."""
        if template is None:
            raise UserError(
                "data.form.name='chat' needs a chat template, which says how turns are written: start from a run that "
                "has one with --config.init_from=WORKDIR, or give the path of one as data.form.template"
            )
        talks = [self.conversation(record) for record in records]
        made = turns.encode(template, words, talks, [record.name for record in records])
        ids, taught = flat([m.ids for m in made]), flat([m.answered for m in made], bool)
        return {"ids": ids.values, "taught": taught.values, "starts": ids.starts}

    def rows(self, made: Arrays, records: Records, around: Around, *, evaluation: bool) -> Rows:
        """Return conversations side by side."""
        whole, learnt = Ragged(made["ids"], made["starts"]), Ragged(made["taught"], made["starts"])
        room = around.seq_len + 1
        used = fitting(whole.lengths, room, self.long, records, "data.seq_len + 1")
        ids, taught = ([part[i][:room] for i in used.tolist()] for part in (whole, learnt))
        left = [i for i, which in enumerate(taught) if which[1:].any()]
        if not left:
            raise UserError(f"no answer begins within data.seq_len={around.seq_len} tokens; raise it")
        texts = flat([ids[i] for i in left])
        return taught_rows(texts, flat([taught[i] for i in left], bool).values, around, alone=False)

    def blank(self, seq_len: int) -> Fields:
        """Return the fields of one row."""
        return blank(seq_len)


def check_turns(record: Record, field: str, found: list[Message]) -> None:
    """Refuse messages that are no conversation: after a system's, if any, user and assistant take turns.

    Raises:
        UserError: names the first message out of turn.
    """
    first = int(found[0]["role"] == "system")
    for number, message in enumerate(found[first:], first):
        due = ("user", "assistant")[(number - first) % 2]
        if message["role"] != due:
            raise UserError(
                f"{record.name}: {field}[{number}].role={message['role']!r} stands where {due!r} is due: user and "
                "assistant take turns, after one message of the system, if any; join messages of one role, or remove it"
            )


def messages_of(record: Record, field: str) -> list[Message]:
    """Return the list of messages in a field.

    Raises:
        UserError: it is none, or a message has no role or text.
    """
    given: Any = record.values[field]
    if not isinstance(given, list) or not given:
        raise UserError(f"{record.name}: field {field!r} must be a list of messages: {given!r:.60}")
    for number, message in enumerate(given):
        where = f"{record.name}: {field}[{number}]"
        if not isinstance(message, Mapping):
            raise UserError(f'{where} must be {{"role": …, "content": …}}, not {message!r:.60}')
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise UserError(f"{where}.role={role!r} must be one of: {', '.join(ROLES)}")
        if not isinstance(content, str) or not content.strip():
            raise UserError(f"{where}.content must be a text that is not empty: {content!r:.60}")
    return [{"role": m["role"], "content": m["content"]} for m in given]
