"""The members of a mixture and what stands in them: texts, for a tokenizer or a suite, or their token shards."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from llm_jax.core.table import UserError, choices, nearest
from llm_jax.data.documents import Document, Documents
from llm_jax.data.examples.forms import Form
from llm_jax.data.examples.opened import Examples, open_examples
from llm_jax.data.examples.records import RECORDS
from llm_jax.data.order import shares
from llm_jax.data.sources import SOURCES, open_source
from llm_jax.text import cache, shards
from llm_jax.text.base import Tokenizer
from llm_jax.text.normalize import normalize
from llm_jax.text.options import check
from llm_jax.text.shards import Shard

log = logging.getLogger(__name__)


class Component(NamedTuple):
    """One member of a mixture."""

    source: str
    options: Mapping[str, Any]
    weight: float


@dataclass(frozen=True)
class Texts:
    """The normalised documents of one split of one component; iterating anew reads anew."""

    documents: Documents
    options: Mapping[str, Any]
    domain: int

    @property
    def fingerprint(self) -> str:
        return cache.key(self.documents.fingerprint, dict(self.options), self.domain, version=1)

    def __iter__(self) -> Iterator[Document]:
        for document in self.documents:
            try:
                text = normalize(document.text, **self.options)
            except UserError as error:
                raise UserError(f"{document.name}: {error}") from None
            if text:
                yield document._replace(text=text, domain=self.domain)


def components(
    source: str | None, options: Mapping[str, Any] | None, mixture: Sequence[Mapping[str, Any]] | None
) -> list[Component]:
    """Return the mixture that the arguments describe; a single source is a mixture of one.

    Raises:
        UserError: both or neither are given, a member has an unknown key, or a weight is not a positive number.
    """
    if (source is None) == (not mixture):
        known = choices({**SOURCES, **RECORDS})
        raise UserError(f"data: give either `source` (one of: {known}) or `mixture`, a list of them")
    if source is not None:
        return [Component(source, options or {}, 1.0)]
    if options:
        raise UserError("data.options belongs to data.source; in data.mixture each member has `options` of its own")
    found = []
    for i, member in enumerate(mixture or ()):
        for key in member:
            if key not in Component._fields:
                raise UserError(
                    f"data.mixture[{i}].{key} is not known; accepted: {choices(Component._fields)}"
                    f"{nearest(str(key), Component._fields)}"
                )
        if "source" not in member:
            raise UserError(f"data.mixture[{i}].source is required; choose one of: {choices(SOURCES)}")
        found.append(Component(member["source"], member.get("options") or {}, member.get("weight", 1.0)))
    shares([part.weight for part in found])
    return found


def opened(
    part: Component, split: str, normalization: Mapping[str, Any] | None, domain: int = 0
) -> Texts | Sequence[Shard] | None:
    """Return the texts of one split of a component, or its token shards; None where it has nothing held out.

    Raises:
        UserError: as `build.build`.
    """
    chosen = check(normalize, normalization or {}, "data.normalization")
    found: Documents | Sequence[Shard] | None = open_source(part.source, part.options, split)
    return Texts(found, chosen, domain) if isinstance(found, Documents) else found


def open_shards(
    part: Component,
    split: str,
    domain: int,
    tokenizer: Tokenizer,
    normalization: Mapping[str, Any] | None = None,
    cache_dir: str | Path | None = None,
) -> list[Shard]:
    """Return the token shards of one split of one component; [] where it has nothing held out.

    Raises:
        UserError: as `build.build`; also where given shards were made with another tokenizer.
    """
    texts = opened(part, split, normalization, domain)
    if texts is None:
        return []
    if not isinstance(texts, Texts):
        for shard in texts:
            if shard.meta["tokenizer"] != tokenizer.fingerprint:
                raise UserError(f"data.source={part.source!r}: a {split} shard was made with another tokenizer")
        return list(texts)
    try:
        return [shards.build(texts, tokenizer, texts.fingerprint, cache_dir)]
    except shards.EmptyError as error:
        if split == "train":
            raise UserError(f"data.source={part.source!r}: {error}") from None
        log.warning("data.source=%r holds nothing out: every document is in the training split", part.source)
        return []


def training_texts(
    *,
    source: str | None = None,
    options: Mapping[str, Any] | None = None,
    mixture: Sequence[Mapping[str, Any]] | None = None,
    normalization: Mapping[str, Any] | None = None,
    form: Form | None = None,
) -> tuple[Callable[[], Iterator[str]], str]:
    """Return (texts, fingerprint) of the training split, as `text.tokenizers.build` takes them.

    Raises:
        UserError: as `build.build`; also where the data are token shards, which hold no text.
    """
    corpora: list[Texts | Examples] = []
    for domain, part in enumerate(components(source, options, mixture)):
        if form is not None:
            records = open_examples(part.source, part.options, "train", normalization)
            corpora += [] if records is None else [Examples(records, form)]
            continue
        texts = opened(part, "train", normalization, domain)
        if not isinstance(texts, Texts):
            raise UserError(
                f"data.source={part.source!r} holds no text to train a tokenizer on; load the one it was made with"
            )
        corpora.append(texts)
    return lambda: (d.text for corpus in corpora for d in corpus), cache.key(
        [c.fingerprint for c in corpora], version=1
    )
