"""Words with a tag each: parts of speech, names of people and places."""

from dataclasses import dataclass, field

import numpy as np

from llm_jax.core.table import UserError
from llm_jax.data.examples.forms import Around
from llm_jax.data.examples.ragged import Ragged, check_long, fitting, flat
from llm_jax.data.examples.records import Record, Records, member, value_of
from llm_jax.data.features import Fields
from llm_jax.data.kept import Arrays
from llm_jax.data.packing import Rows
from llm_jax.text.base import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Tagged:
    """The form `tagged`: fields tokens, segments, tags int32 and weights float32 [B,T].

    One token of a word has its tag and weight 1; its other tokens and the tokenizer's frame have weight 0.

    words, tags: names of the fields, lists or texts with spaces between. classes: the tags, in the order of their
    numbers. long: "error", "cut" or "drop". at: "first" (as BERT, 4.3 of Devlin et al. 2019) or "last", where a model
    that reads from left to right has seen the whole word. framed: as of `labelled`.
    """

    words: str = "tokens"
    tags: str = "tags"
    classes: list | tuple
    long: str = "error"
    at: str = "first"
    framed: bool = field(default=True, repr=False)  # changes rows, not what is kept

    def __post_init__(self) -> None:
        check_long(self.long)
        if self.at not in ("first", "last"):
            raise UserError(f'data.form.at={self.at!r} must be "first" or "last"')
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise UserError(f"data.form.classes={list(self.classes)} must be two tags or more, each once")

    def texts(self, record: Record) -> list[str]:
        """Return the words as one text."""
        return [" ".join(self.listed(record, self.words, "words"))]

    def listed(self, record: Record, field: str, option: str) -> list[str]:
        """Return the words or tags in a field.

        Raises:
            UserError: it is neither a text nor a list of texts, or empty.
        """
        value = value_of(record, field, option)
        found = value.split() if isinstance(value, str) else value
        if not isinstance(found, list) or not found or not all(isinstance(w, str) and w.strip() for w in found):
            raise UserError(
                f"{record.name}: field {field!r} must be a text, or a list of texts, none of them empty: {value!r:.60}"
            )
        return found

    def encode(self, records: Records, words: Tokenizer, template: str | None) -> Arrays:
        """Return ids and tags with their starts; the tag of a word's other tokens is -1."""
        ids, tags = [], []
        for record in records:
            found, named = self.listed(record, self.words, "words"), self.listed(record, self.tags, "tags")
            if len(found) != len(named):
                raise UserError(f"{record.name}: {len(found)} words in {self.words!r}, and {len(named)} tags")
            numbers = [member(record, self.tags, tag, self.classes, "classes") for tag in named]
            pieces = [words.encode(" " + w if words.joins and i else w) for i, w in enumerate(found)]
            ids.append(np.concatenate(pieces))
            tags.append(np.concatenate([self._placed(n, len(p)) for n, p in zip(numbers, pieces, strict=True)]))
        first, second = flat(ids), flat(tags)
        return {"ids": first.values, "tags": second.values, "starts": first.starts}

    def _placed(self, tag: int, pieces: int) -> list[int]:
        others = [-1] * (pieces - 1)
        return [] if not pieces else [tag, *others] if self.at == "first" else [*others, tag]

    def rows(self, made: Arrays, records: Records, around: Around, *, evaluation: bool) -> Rows:
        """Return a row for each record."""
        ids, tags = (Ragged(made[name], made["starts"]) for name in ("ids", "tags"))
        before, _, after = around.framing(self.framed)
        room = around.seq_len - len(before) - len(after)
        used = fitting(ids.lengths + around.seq_len - room, around.seq_len, self.long, records, "data.seq_len")

        def gather(rows: np.ndarray, epochs: np.ndarray) -> Fields:
            fields = {name: np.repeat(values, len(rows), 0) for name, values in self.blank(around.seq_len).items()}
            fields["tokens"][:] = around.pad_id
            for row, i in enumerate(used[rows].tolist()):
                whole = [*before, *ids[i][:room], *after]
                named = np.array([*[-1] * len(before), *tags[i][:room], *[-1] * len(after)])
                fields["tokens"][row, : len(whole)] = whole
                fields["segments"][row, : len(whole)] = 1
                fields["tags"][row, : len(whole)] = np.maximum(named, 0)
                fields["weights"][row, : len(whole)] = named >= 0
            return fields

        return Rows(len(used), gather)

    def blank(self, seq_len: int) -> Fields:
        """Return the fields of one row."""
        fields = {name: np.zeros((1, seq_len), np.int32) for name in ("tokens", "segments", "tags")}
        return fields | {"weights": np.zeros((1, seq_len), np.float32)}
