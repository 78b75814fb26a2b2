"""Questions whose answers are checked, one a row always, with the number of the record."""

from dataclasses import dataclass

import numpy as np

from llm_jax.data.examples.chats import Chat
from llm_jax.data.examples.forms import Around
from llm_jax.data.examples.pairs import Pairs
from llm_jax.data.examples.ragged import Ragged, fitting
from llm_jax.data.examples.records import Record, Records
from llm_jax.data.examples.taught import blank, taught_rows
from llm_jax.data.features import Fields
from llm_jax.data.kept import Arrays
from llm_jax.data.packing import Rows
from llm_jax.text.base import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The form `prompts`: rows "question separator answer" as those of `pairs` with `joined`, and `item` int32 [B].

    question, answer: names of the fields. prefix: stands before each question. separator: after it. item: which
    record of its split a row is of.
    """

    question: str = "question"
    answer: str = "answer"
    prefix: str = ""
    separator: str = "\n"

    def _pairs(self) -> Pairs:
        return Pairs(
            source=self.question, target=self.answer, prefix=self.prefix, separator=self.separator, joined=True
        )

    def texts(self, record: Record) -> list[str]:
        """Return the question with its prefix, and the answer."""
        return self._pairs().texts(record)

    def encode(self, records: Records, words: Tokenizer, template: str | None) -> Arrays:
        """Return ids and starts of the questions and the answers."""
        return self._pairs().encode(records, words, template)

    def rows(self, made: Arrays, records: Records, around: Around, *, evaluation: bool) -> Rows:
        """Return a row for each record."""
        return numbered(self._pairs().rows(made, records, around, evaluation=True))

    def blank(self, seq_len: int) -> Fields:
        """Return the fields of one row."""
        return blank(seq_len) | {"item": np.zeros(1, np.int32)}


@dataclass(frozen=True, kw_only=True)
class ChatPrompts:
    """The form `chat_prompts`: rows as those of `chat`, a question and its answer each, and `item` int32 [B].

    question, answer, prefix: as of `prompts`. system, template: as of `chat`.
    """

    question: str = "question"
    answer: str = "answer"
    prefix: str = ""
    system: str | None = None
    template: str | None = None

    def _chat(self) -> Chat:
        names = {"messages": "", "prompt": self.question, "response": self.answer}
        return Chat(**names, prefix=self.prefix, system=self.system)

    def texts(self, record: Record) -> list[str]:
        """Return what was said; the answer comes last."""
        return self._chat().texts(record)

    def encode(self, records: Records, words: Tokenizer, template: str | None) -> Arrays:
        """Return ids, which of them are learnt, and starts of the conversations."""
        return self._chat().encode(records, words, template)

    def rows(self, made: Arrays, records: Records, around: Around, *, evaluation: bool) -> Rows:
        """Return a row for each record."""
        texts = Ragged(made["ids"], made["starts"])
        fitting(texts.lengths, around.seq_len + 1, "error", records, "data.seq_len + 1")
        return numbered(taught_rows(texts, made["taught"], around, alone=True))

    def blank(self, seq_len: int) -> Fields:
        """Return the fields of one row."""
        return blank(seq_len) | {"item": np.zeros(1, np.int32)}


def numbered(alone: Rows) -> Rows:
    """Return rows, one of each record in their order, with the number of the record."""

    def gather(rows: np.ndarray, epochs: np.ndarray) -> Fields:
        return alone.gather(rows, epochs) | {"item": np.asarray(rows, np.int32)}

    return Rows(alone.count, gather)
