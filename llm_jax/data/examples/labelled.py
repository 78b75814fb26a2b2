"""A text, or two, with a label: a class by its name, or a number to regress."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from llm_jax.core.table import UserError
from llm_jax.data.examples.forms import Around
from llm_jax.data.examples.ragged import Ragged, check_long, fitting, flat
from llm_jax.data.examples.records import Record, Records, member, text_of, value_of
from llm_jax.data.features import Fields
from llm_jax.data.kept import Arrays
from llm_jax.data.packing import Rows
from llm_jax.text.base import Tokenizer

LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """The form `labelled`: fields tokens, segments, weights [B,T], label int32 or float32 [B], maybe token_types.

    A text stands between the ids that the tokenizer's own frame has ([CLS], [SEP]), or else its start and end; of two
    texts what it has between two, or else the end, stands between them. Weights are 1 at every token; a row without
    any does not count.

    text, second, label: names of the fields; None: there is no second text. classes: their names, in the order of
    their numbers; None: labels are numbers. long: "error", or "cut" (the longer text first), or "drop". framed:
    whether start and end stand around a text where the tokenizer has no frame of its own.
    """

    text: str = "text"
    second: str | None = None
    label: str = "label"
    classes: list | tuple | None = None
    long: str = "error"
    framed: bool = field(default=True, repr=False)  # changes rows, not what is kept

    def __post_init__(self) -> None:
        check_long(self.long)
        if self.classes is not None and (len(self.classes) < 2 or len(set(map(str, self.classes))) < len(self.classes)):
            raise UserError(
                f"data.form.classes={list(self.classes)} must be two names or more, each once; "
                "without it labels are numbers"
            )

    @property
    def names(self) -> list[str]:
        """The classes in the order of their numbers; none where labels are numbers."""
        return [c if isinstance(c, str) else str(c).lower() for c in self.classes or ()]

    def texts(self, record: Record) -> list[str]:
        """Return the one text or the two."""
        asked = [(self.text, "text"), *([(self.second, "second")] if self.second is not None else [])]
        return [text_of(record, field, option) for field, option in asked]

    def number(self, record: Record) -> float:
        """Return the label: the number of the class, or the value.

        Raises:
            UserError: the class is not one of the stated ones, or there is no finite number.
        """
        value = value_of(record, self.label, "label")
        if self.classes is not None:
            return member(record, self.label, value, self.names, "classes")
        try:
            found = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            found = math.nan
        if not abs(found) <= LARGEST:
            raise UserError(
                f"{record.name}: field {self.label!r} is {value!r}, and no finite number of 32 bits; to tell classes "
                "apart, state them in their order: data.form.classes=['…','…']"
            )
        return found

    def encode(self, records: Records, words: Tokenizer, template: str | None) -> Arrays:
        """Return ids and starts of the first and second texts, and the labels."""
        texts = [self.texts(record) for record in records]
        labels = [self.number(record) for record in records]
        made = {"label": np.array(labels, np.float32 if self.classes is None else np.int32)}
        for name, part in zip(("first", "second"), zip(*texts, strict=True), strict=False):
            made[name], made[f"{name}_starts"] = flat(words.encode_batch(part))
        return made

    def rows(self, made: Arrays, records: Records, around: Around, *, evaluation: bool) -> Rows:
        """Return a row for each record."""
        length = around.seq_len
        parts = [Ragged(made[n], made[f"{n}_starts"]) for n in ("first", "second") if n in made]
        before, between, after = around.framing(self.framed)
        room = length - len(before) - (len(parts) - 1) * len(between) - len(after)
        if room < len(parts):
            raise UserError(f"data.seq_len={length} has no room for a text between the tokenizer's control tokens")
        total = np.sum([part.lengths for part in parts], axis=0)
        used = fitting(total + length - room, length, self.long, records, "data.seq_len")
        labels = np.asarray(made["label"])

        def gather(rows: np.ndarray, epochs: np.ndarray) -> Fields:
            fields = {name: np.repeat(values, len(rows), 0) for name, values in self.blank(length).items()}
            fields["tokens"][:] = around.pad_id
            for row, i in enumerate(used[rows]):
                pieces = [part[int(i)] for part in parts]
                column = 0
                for number, (piece, size) in enumerate(
                    zip(pieces, shared([len(p) for p in pieces], room), strict=True)
                ):
                    last = number == len(pieces) - 1
                    ids = [*(before if number == 0 else ()), *piece[:size], *(after if last else between)]
                    fields["tokens"][row, column : column + len(ids)] = ids
                    if number:
                        fields["token_types"][row, column : column + len(ids)] = number
                    column += len(ids)
                fields["segments"][row, :column] = 1
            return fields | {"weights": fields["segments"].astype(np.float32), "label": labels[used[rows]]}

        return Rows(len(used), gather)

    def blank(self, seq_len: int) -> Fields:
        """Return the fields of one row."""
        names = ("tokens", "segments", *(("token_types",) if self.second is not None else ()))
        return {name: np.zeros((1, seq_len), np.int32) for name in names} | {
            "weights": np.zeros((1, seq_len), np.float32),
            "label": np.zeros(1, np.float32 if self.classes is None else np.int32),
        }


def shared(sizes: Sequence[int], room: int) -> list[int]:
    """Return how many tokens of one text or two are kept in a room, the longer losing first."""
    if sum(sizes) <= room:
        return list(sizes)
    if len(sizes) == 1:
        return [room]
    first, second = sizes
    if first <= room // 2:
        return [first, room - first]
    return [room - second, second] if second <= room // 2 else [room - room // 2, room // 2]
