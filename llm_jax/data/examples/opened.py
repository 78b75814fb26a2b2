"""The examples of a source, normalised; and their texts, for a tokenizer that is trained on them."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from llm_jax.core.table import UserError
from llm_jax.data.documents import Document
from llm_jax.data.examples.forms import Form
from llm_jax.data.examples.records import Records, open_records
from llm_jax.text import cache
from llm_jax.text.normalize import normalize
from llm_jax.text.options import check

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examples:
    """The texts of examples, as documents; iterating anew reads anew."""

    records: Records
    form: Form

    @property
    def fingerprint(self) -> str:
        return cache.key(self.records.fingerprint, repr(self.form), version=1)

    def __iter__(self) -> Iterator[Document]:
        return (Document(text, record.name) for record in self.records for text in self.form.texts(record))


def open_examples(
    source: str, options: Mapping[str, Any] | None, split: str, normalization: Mapping[str, Any] | None = None
) -> Records | None:
    """Return the normalised examples of one split of a source; None where it has nothing held out.

    Raises:
        UserError: as `open_records`; also where nothing is left to train on.
    """
    chosen = check(normalize, normalization or {}, "data.normalization")
    opened = open_records(source, options, split)
    if opened is None:
        return None
    if len(opened):
        return opened.cleaned(partial(normalize, **chosen), cache.key(opened.fingerprint, chosen, version=1))
    if split == "train":
        raise UserError(f"data.source={source!r} holds every example out; lower data.options.held_out")
    log.warning("data.source=%r holds nothing out: every example is in the training split", source)
    return None
