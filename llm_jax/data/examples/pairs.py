"""A text to be written from another: translation, summaries, answers."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llm_jax.core import checks
from llm_jax.core.table import UserError
from llm_jax.data.corrupt.rows import Texts, ends, pair
from llm_jax.data.examples.forms import Around
from llm_jax.data.examples.ragged import Ragged, check_long, fitting, flat
from llm_jax.data.examples.records import Record, Records, text_of, value_of
from llm_jax.data.examples.taught import blank, taught_rows
from llm_jax.data.features import Fields
from llm_jax.data.kept import Arrays
from llm_jax.data.packing import Rows
from llm_jax.text.base import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The form `pairs`.

    For an encoder-decoder: source_tokens, source_segments [B,S], and tokens (shifted right), targets, weights,
    segments [B,T]; both texts end with the tokenizer's end. `joined`, for a decoder: rows "source separator target"
    with weights on the target and its end alone, in training several side by side, in evaluation one a row.

    source, target: names of the fields. prefix: stands before each source, such as "translate English to German: ".
    source_len: S, None for data.seq_len. separator: of joined texts. learn_source: whether these have weights on the
    source and the separator too, in training. long: "error", "cut" or "drop"; what is cut is
    the end of the source, of joined texts such that the target stays, and of a target itself what exceeds its room.
    """

    source: str = "source"
    target: str = "target"
    prefix: str = ""
    source_len: int | None = None
    joined: bool = False
    separator: str = "\n"
    learn_source: bool = field(default=False, repr=False)  # changes rows, not what is kept
    long: str = "error"

    def __post_init__(self) -> None:
        check_long(self.long)
        checks.positive("data.form", source_len=self.source_len)
        if self.learn_source and not self.joined:
            raise UserError(
                "data.form.learn_source=True is of joined texts; set data.form.joined=True, or leave it out"
            )

    def texts(self, record: Record) -> list[str]:
        """Return the source with its prefix, and the target."""
        source = text_of(record, self.source, "source")
        return [self.prefix + source, text_of(record, self.target, "target")]

    def encode(self, records: Records, words: Tokenizer, template: str | None) -> Arrays:
        """Return ids and starts of the sources and the targets."""
        made: dict[str, np.ndarray] = {}
        texts = [self.texts(record) for record in records]
        for name, part in zip(("source", "target"), zip(*texts, strict=True), strict=True):
            made[name], made[f"{name}_starts"] = flat(words.encode_batch(part))
        return made

    def rows(self, made: Arrays, records: Records, around: Around, *, evaluation: bool) -> Rows:
        """Return a row for each record, or joined ones side by side."""
        source, target = (Ragged(made[n], made[f"{n}_starts"]) for n in ("source", "target"))
        if self.joined:
            return self._joined(source, target, records, around, evaluation)
        length = around.seq_len
        wide, around_text = self.source_len or length, ends(around.words)
        end = int(around_text.end is not None)
        used = fitting(target.lengths + end, length, self.long, records, "data.seq_len")
        wider = "data.seq_len" if self.source_len is None else "data.form.source_len"
        short = fitting(source.lengths + end, wide, self.long, records, wider)
        used = np.intersect1d(used, short)

        def gather(rows: np.ndarray, epochs: np.ndarray) -> Fields:
            texts = [part.padded(used[rows], w - end) for part, w in ((source, wide), (target, length))]
            read, written = (Texts(ids.astype(np.int32), sizes) for ids, sizes in texts)
            return pair({}, read, written, around_text, (wide, length))

        return Rows(len(used), gather)

    def _joined(self, source: Ragged, target: Ragged, records: Records, around: Around, evaluation: bool) -> Rows:
        words, room = around.words, around.seq_len + 1
        before, after = around.frame
        between = words.encode(self.separator)
        own = len(before) + len(between) + len(after)
        used = fitting(source.lengths + target.lengths + own, room, self.long, records, "data.seq_len + 1")
        ids, taught = [], []
        for i in used.tolist():
            written = target[i][: max(1, room - own)]
            read = source[i][: max(0, room - own - len(written))]
            ids.append(np.concatenate([before, read, between, written, after]))
            first = 0 if self.learn_source and not evaluation else len(ids[-1]) - len(written) - len(after)
            taught.append(np.arange(len(ids[-1])) >= first)
        return taught_rows(flat(ids), flat(taught, bool).values, around, alone=evaluation)

    def blank(self, seq_len: int) -> Fields:
        """Return the fields of one row."""
        fields = blank(seq_len)
        if not self.joined:
            del fields["positions"]
            fields |= {n: np.zeros((1, self.source_len or seq_len), np.int32) for n in SOURCE}
        return fields


@dataclass(frozen=True, kw_only=True)
class Answers(Pairs):
    """The form `answers`: the pairs of a question above its passage, and the answer.

    question: name of the question's field. source: of the passage's. target: of the answer's: a text, a list of which
    the first one is learnt, or {"text": […]} as SQuAD has it. none: what is written where that list is empty.
    """

    question: str = "question"
    source: str = "context"
    target: str = "answers"
    none: str = "unanswerable"

    def texts(self, record: Record) -> list[str]:
        """Return the question above the passage, with their prefix, and the answer."""
        asked, passage = text_of(record, self.question, "question"), text_of(record, self.source, "source")
        given: Any = value_of(record, self.target, "target")
        given = given.get("text") if isinstance(given, dict) else given
        said = given if isinstance(given, list) else [given]
        if not all(isinstance(text, str) and text.strip() for text in said):
            raise UserError(
                f'{record.name}: field {self.target!r} must be a text, a list of them, or {{"text": ["…"]}}: '
                f"{record.values[self.target]!r:.80}"
            )
        return [f"{self.prefix}{asked}\n{passage}", said[0] if said else self.none]


SOURCE = ("source_tokens", "source_segments")
