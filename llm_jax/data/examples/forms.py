"""The table of forms: each makes of records the fields of a task's batches.

A form is a frozen dataclass whose fields are the options of `data.form`, and has the methods of `Form`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llm_jax.core.table import UserError, choices, lookup
from llm_jax.data import kept
from llm_jax.data.examples.records import Record, Records
from llm_jax.data.features import Fields
from llm_jax.data.kept import Arrays
from llm_jax.data.packing import Rows
from llm_jax.text import cache
from llm_jax.text.base import Tokenizer
from llm_jax.text.options import check

FORMS = {
    "labelled": "llm_jax.data.examples.labelled:Labelled",
    "pairs": "llm_jax.data.examples.pairs:Pairs",
    "answers": "llm_jax.data.examples.pairs:Answers",
    "chat": "llm_jax.data.examples.chats:Chat",
    "passages": "llm_jax.data.examples.passages:Passages",
    "preferences": "llm_jax.data.examples.preferred:Preferences",
    "prompts": "llm_jax.data.tasks.prompts:Prompts",
    "soft": "llm_jax.data.service.soft:Soft",
    "chat_prompts": "llm_jax.data.tasks.prompts:ChatPrompts",
    "tagged": "llm_jax.data.examples.tagged:Tagged",
}


class Form(Protocol):
    """What becomes of records."""

    def texts(self, record: Record) -> list[str]:
        """Return the texts of a record, on which a tokenizer can be trained.

        Raises:
            UserError: a field is missing, of a wrong type, or empty; the message names the record.
        """

    def encode(self, records: Records, words: Tokenizer, template: str | None) -> Arrays:
        """Return the tokens of all records, as they are kept in the cache.

        Raises:
            UserError: as `texts`; or a label is not known.
        """

    def rows(self, made: Arrays, records: Records, around: "Around", *, evaluation: bool) -> Rows:
        """Return encoded records as rows of fixed shapes.

        Raises:
            UserError: an example is too long.
        """

    def blank(self, seq_len: int) -> Fields:
        """Return the fields of a batch of one row, all 0: their names, shapes and dtypes."""


@dataclass(frozen=True)
class Around:
    """What rows depend on beside the examples: the tokenizer, T, and the seed of a packing."""

    words: Tokenizer
    seq_len: int
    seed: int

    @property
    def pad_id(self) -> int:
        """What stands where there is no token."""
        return next((i for i in (self.words.pad_id, self.words.eos_id) if i is not None), 0)

    @property
    def frame(self) -> tuple[list[int], list[int]]:
        """The ids before and after a text of its own: the tokenizer's frame, or else its start and end."""
        if self.words.frame != ((), ()):
            return list(self.words.frame[0]), list(self.words.frame[1])
        start, end = ([i for i in (one,) if i is not None] for one in (self.words.bos_id, self.words.eos_id))
        return start, end

    def framing(self, framed: bool = True) -> tuple[list[int], list[int], list[int]]:
        """The ids before a text, between two and after one.

        framed: whether the tokenizer's start and end stand there where it has no frame of its own.
        """
        before, after = self.frame if framed else map(list, self.words.frame)
        own = not framed or self.words.frame != ((), ())
        between = list(self.words.between) if own and self.words.between is not None else after
        return before, between, after


def build(given: Mapping[str, Any]) -> Form:
    """Return the form of the section `data.form`: {"name": a key of FORMS, and its options}.

    Raises:
        UserError: unknown name or option.
    """
    options = dict(given)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise UserError(f'data.form needs a name, such as {{"name": "chat"}}; choose one of: {choices(FORMS)}')
    member = lookup(FORMS, name, "data.form.name")
    form: Form = member(**check(member, options, "data.form"))
    return form


def rows(
    form: Form,
    records: Records,
    around: Around,
    *,
    template: str | None,
    evaluation: bool,
    cache_dir: str | Path | None = None,
) -> Rows:
    """Return records in a form as rows; their tokens are kept in the cache."""
    words = around.words
    name = cache.key("examples", records.fingerprint, words.fingerprint, repr(form), template, version=1)
    made = kept.arrays("examples", name, lambda: form.encode(records, words, template), cache_dir)
    return form.rows(made, records, around, evaluation=evaluation)
