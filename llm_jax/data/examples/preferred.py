"""Two answers to one prompt, of which the first is preferred (Christiano et al. 2017; as TRL writes them)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_jax.core.table import UserError
from llm_jax.data.examples.chats import messages_of
from llm_jax.data.examples.forms import Around
from llm_jax.data.examples.ragged import Ragged, check_long, fitting, flat
from llm_jax.data.examples.records import Record, Records, text_of, value_of
from llm_jax.data.examples.taught import blank, taught_rows
from llm_jax.data.features import Fields
from llm_jax.data.kept import Arrays
from llm_jax.data.packing import Rows
from llm_jax.text import turns
from llm_jax.text.base import Tokenizer
from llm_jax.text.chat import Message

SIDES = {"chosen": "", "rejected": "rejected_"}


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """The form `preferences`: fields tokens, targets, segments, positions, weights [B,T], and the same as `rejected_…`.

    Weights are 1 on an answer and its end. Where there is a chat template, that of the run that is begun from, turns
    are written by it; otherwise a row is prompt, separator, answer.

    prompt, chosen, rejected: names of fields: texts, or with a template lists of messages {"role", "content"}; where
    there is no prompt, both answers are lists that hold it. separator: where there is no template. template: path of
    a chat template, instead of that of the run. long: "error" or "drop": an answer that is cut is another answer.
    """

    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    separator: str = "\n"
    template: str | None = None
    long: str = "error"

    def __post_init__(self) -> None:
        check_long(self.long)
        if self.long == "cut":
            raise UserError('data.form.long="cut" would compare parts of answers; give "drop" or "error"')

    def texts(self, record: Record) -> list[str]:
        """Return the prompt and both answers."""
        talks = [self.conversation(record, side) for side in SIDES]
        return list(dict.fromkeys(message["content"] for talk in talks for message in talk))

    def conversation(self, record: Record, side: str) -> list[Message]:
        """Return the messages that end with an answer, "chosen" or "rejected".

        Raises:
            UserError: a field is missing or is neither a text nor messages; the message names the record.
        """
        field = getattr(self, side)
        value: Any = value_of(record, field, side)
        if isinstance(value, list):
            answer = messages_of(record, field)
        else:
            answer = [{"role": "assistant", "content": text_of(record, field, side)}]
        asked: list[Message] = []
        if self.prompt in record.values or not isinstance(value, list):
            given = value_of(record, self.prompt, "prompt")
            asked = (
                messages_of(record, self.prompt)
                if isinstance(given, list)
                else [{"role": "user", "content": text_of(record, self.prompt, "prompt")}]
            )
        if answer[-1]["role"] != "assistant":
            raise UserError(
                f"{record.name}: {field!r} ends with a message of the role {answer[-1]['role']!r}, no answer"
            )
        return [*asked, *answer]

    def encode(self, records: Records, words: Tokenizer, template: str | None) -> Arrays:
        """Return ids, which of them are an answer's, and starts, of each side."""
        made: dict[str, np.ndarray] = {}
        for side in SIDES:
            talks = [self.conversation(record, side) for record in records]
            if template is None:
                pairs = [self._plain(talk, words, record) for talk, record in zip(talks, records, strict=True)]
            else:
                written = turns.encode(template, words, talks, [record.name for record in records])
                pairs = [(each.ids, _last(each.answered)) for each in written]
            ids, taught = flat([i for i, _ in pairs]), flat([t for _, t in pairs], bool)
            made |= {f"{side}_ids": ids.values, f"{side}_taught": taught.values, f"{side}_starts": ids.starts}
        return made

    def _plain(self, talk: list[Message], words: Tokenizer, record: Record) -> tuple[np.ndarray, np.ndarray]:
        if [message["role"] for message in talk] != ["user", "assistant"]:
            raise UserError(
                f"{record.name}: only a prompt and an answer can be written without a chat template; begin from a run "
                "that has one with --config.init_from=WORKDIR, or give the path of one as data.form.template"
            )
        asked = words.encode(talk[0]["content"] + self.separator)
        answer = words.encode(talk[1]["content"])
        start, end = ([i for i in (one,) if i is not None] for one in (words.bos_id, words.eos_id))
        ids = np.concatenate([start, asked, answer, end]).astype(np.int32)
        return ids, np.arange(len(ids)) >= len(start) + len(asked)

    def rows(self, made: Arrays, records: Records, around: Around, *, evaluation: bool) -> Rows:
        """Return a row for each record."""
        ids, taught = (
            {side: Ragged(made[f"{side}_{name}"], made[f"{side}_starts"]) for side in SIDES}
            for name in ("ids", "taught")
        )
        longest = np.maximum(*(ids[side].lengths for side in SIDES))
        used = fitting(longest, around.seq_len + 1, self.long, records, "data.seq_len + 1").tolist()
        sides = {
            prefix: taught_rows(
                flat([ids[side][i] for i in used]),
                flat([taught[side][i] for i in used], bool).values,
                around,
                alone=True,
            )
            for side, prefix in SIDES.items()
        }

        def gather(rows: np.ndarray, epochs: np.ndarray) -> Fields:
            both = {prefix: side.gather(rows, epochs) for prefix, side in sides.items()}
            return {prefix + name: values for prefix, fields in both.items() for name, values in fields.items()}

        return Rows(len(used), gather)

    def blank(self, seq_len: int) -> Fields:
        """Return the fields of one row."""
        return {prefix + name: values for prefix in SIDES.values() for name, values in blank(seq_len).items()}


def _last(answered: np.ndarray) -> np.ndarray:
    """Return where the last answer is: earlier ones belong to the prompt."""
    ends = np.flatnonzero(answered)
    if not len(ends):
        return answered
    breaks = np.flatnonzero(np.diff(ends) > 1)
    first = ends[breaks[-1] + 1] if len(breaks) else ends[0]
    return answered & (np.arange(len(answered)) >= first)
