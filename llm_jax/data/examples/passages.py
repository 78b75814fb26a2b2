"""Questions whose answers are spans of a passage, as SQuAD has them (Rajpurkar et al. 2016, 2018)."""

import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from llm_jax.core.table import UserError
from llm_jax.data.examples.forms import Around
from llm_jax.data.examples.ragged import Ragged, check_long, fitting, flat
from llm_jax.data.examples.records import Record, Records, text_of, value_of
from llm_jax.data.features import Fields
from llm_jax.data.kept import Arrays
from llm_jax.data.packing import Rows
from llm_jax.text.base import Tokenizer

WORDS = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]|[^\W\u3040-\u30ff\u4e00-\u9fff]+|[^\w\s]")
"""A run of letters and digits, a sign, or a Chinese or Japanese character: what an answer is made of."""


class Located(NamedTuple):
    """The tokens of a passage int32 [N], and from where to where in its text the word of each stands, int64 [N]."""

    ids: np.ndarray
    begins: np.ndarray
    ends: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Passages:
    """The form `passages`: fields tokens, segments, token_types int32 and weights float32 [B,T], spans int32 [B,2].

    A row is the question, what the tokenizer has between two texts, or else its end, and the passage. Weights are 1 at
    what an answer may be made of, the tokens of the passage, and at token 0, which stands for no answer; spans are the
    first and the last token of it. A passage is read word by word, so that every token has its place in the text.

    question, context, answers: names of the fields; the last has {"text": […], "answer_start": […]} with places in
    characters, of which the first one is learnt and none is no answer. long: "error" or "drop". framed:
    as of `labelled`.
    """

    question: str = "question"
    context: str = "context"
    answers: str = "answers"
    long: str = "error"
    framed: bool = field(default=True, repr=False)  # changes rows, not what is kept
    names = ("start", "end")

    def __post_init__(self) -> None:
        check_long(self.long)
        if self.long == "cut":
            raise UserError('data.form.long="cut" would cut answers away; give "drop" or "error"')

    def texts(self, record: Record) -> list[str]:
        """Return the question and the passage."""
        return [text_of(record, self.question, "question"), text_of(record, self.context, "context")]

    def answer(self, record: Record) -> tuple[int, int] | None:
        """Return from where to where in the passage the answer stands, None where there is none.

        Raises:
            UserError: it does not stand there; the message names the record.
        """
        given: Any = value_of(record, self.answers, "answers")
        parts = [given.get(name) if isinstance(given, dict) else None for name in ("text", "answer_start")]
        texts, starts = ([part] if isinstance(part, str | int) else part for part in parts)
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise UserError(
                f'{record.name}: field {self.answers!r} must be {{"text": ["…"], "answer_start": [0]}}: {given!r:.80}'
            )
        if not texts:
            return None
        text, start = texts[0], starts[0]
        passage = text_of(record, self.context, "context")
        if not isinstance(text, str) or not text.strip() or type(start) is not int or start < 0:
            raise UserError(f"{record.name}: the answer {text!r:.40} at {start!r} is no text at a place")
        if passage[start : start + len(text)] != text:
            found = passage.find(text)
            place = f"it stands at {found}" if found >= 0 else "it stands nowhere in it"
            raise UserError(
                f"{record.name}: the answer {text!r:.40} is not at {start} of field {self.context!r}; {place} (places "
                "are of the text after data.normalization)"
            )
        return start, start + len(text)

    def located(self, passages: list[str], words: Tokenizer) -> list[Located]:
        """Return the tokens of passages and where each one's word stands."""
        places = [[match.span() for match in WORDS.finditer(passage)] for passage in passages]
        pieces = [
            passage[begin - (words.joins and begin > 0 and passage[begin - 1].isspace()) : end]
            for passage, spans in zip(passages, places, strict=True)
            for begin, end in spans
        ]
        encoded = iter(words.encode_batch(pieces))
        found = []
        for spans in places:
            ids = [next(encoded) for _ in spans]
            sizes = [len(i) for i in ids]
            at = np.repeat(np.array(spans, np.int64).reshape(-1, 2), sizes, axis=0)
            found.append(Located(flat(ids).values, at[:, 0], at[:, 1]))
        return found

    def encode(self, records: Records, words: Tokenizer, template: str | None) -> Arrays:
        """Return ids and starts of questions and passages, and the spans in the passages, -1 for none."""
        texts = [self.texts(record) for record in records]
        passages = self.located([context for _, context in texts], words)
        spans = np.full((len(texts), 2), -1, np.int64)
        for i, (record, passage) in enumerate(zip(records, passages, strict=True)):
            place = self.answer(record)
            if place is None:
                continue
            inside = np.flatnonzero((passage.begins < place[1]) & (passage.ends > place[0]))
            if not len(inside):
                raise UserError(f"{record.name}: the answer has no token of this tokenizer")
            spans[i] = inside[0], inside[-1]
        return self.arrays([question for question, _ in texts], passages, spans, words)

    def arrays(self, questions: list[str], passages: list[Located], spans: np.ndarray, words: Tokenizer) -> Arrays:
        """Return questions with their passages and spans int64 [N,2] as `encode` does."""
        made: dict[str, np.ndarray] = {"spans": spans}
        made["asked"], made["asked_starts"] = flat(words.encode_batch(questions))
        made["passage"], made["passage_starts"] = flat([passage.ids for passage in passages])
        return made

    def rows(self, made: Arrays, records: Records, around: Around, *, evaluation: bool) -> Rows:
        """Return a row for each record."""
        asked, passage = (Ragged(made[n], made[f"{n}_starts"]) for n in ("asked", "passage"))
        before, between, after = around.framing(self.framed)
        frame = len(before) + len(between) + len(after)
        used = fitting(asked.lengths + passage.lengths + frame, around.seq_len, self.long, records, "data.seq_len")

        def gather(rows: np.ndarray, epochs: np.ndarray) -> Fields:
            fields = {name: np.repeat(values, len(rows), 0) for name, values in self.blank(around.seq_len).items()}
            fields["tokens"][:] = around.pad_id
            for row, i in enumerate(used[rows].tolist()):
                first = [*before, *asked[i], *between]
                whole = [*first, *passage[i], *after]
                told = slice(len(first), len(first) + len(passage[i]))
                fields["tokens"][row, : len(whole)] = whole
                fields["segments"][row, : len(whole)] = 1
                fields["token_types"][row, len(first) : len(whole)] = 1
                fields["weights"][row, told] = 1
                fields["weights"][row, 0] = 1
                fields["spans"][row] = made["spans"][i] + len(first) if made["spans"][i, 0] >= 0 else 0
            return fields

        return Rows(len(used), gather)

    def blank(self, seq_len: int) -> Fields:
        """Return the fields of one row."""
        fields: Fields = {name: np.zeros((1, seq_len), np.int32) for name in ("tokens", "segments", "token_types")}
        return fields | {"weights": np.zeros((1, seq_len), np.float32), "spans": np.zeros((1, 2), np.int32)}
