"""From names and plain arguments to the loaders of a run."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_jax.core.table import UserError, lookup
from llm_jax.data.examples import forms
from llm_jax.data.examples.forms import Form
from llm_jax.data.examples.opened import open_examples
from llm_jax.data.features import Transform
from llm_jax.data.loader import Loader
from llm_jax.data.mixture import Component, Texts, components, open_shards, opened
from llm_jax.data.packing import PACKINGS, Rows, join
from llm_jax.data.turns import Turns
from llm_jax.text import cache
from llm_jax.text.base import Tokenizer

EVALUATION = -1  # the seed of what an objective draws there


class Data:
    """The loaders of a run, each opened when it is first asked for: what is judged needs no training split.

    Attributes:
        train: shuffled, epoch after epoch.
        validation: what is held out, None where nothing is.
        fingerprint: what both are.
    """

    def __init__(self, opened: Callable[[str], tuple[Loader | None, list[str]]]):
        self._opened = functools.cache(opened)

    def whole(self) -> "Data":
        """Return it with both splits opened: whatever is wrong with them is raised now."""
        _ = self.train, self.validation
        return self

    @property
    def train(self) -> Loader:
        loader, _ = self._opened("train")
        if loader is None:
            raise UserError("the data have no training split; give data.options.train or data.options.files")
        return loader

    @property
    def validation(self) -> Loader | None:
        return self._opened("validation")[0]

    @property
    def fingerprint(self) -> str:
        return cache.key(self._opened("train")[1] + self._opened("validation")[1], version=1)


def build(
    *,
    tokenizer: Tokenizer,
    seq_len: int,
    batch_size: int,
    source: str | None = None,
    options: Mapping[str, Any] | None = None,
    mixture: Sequence[Mapping[str, Any]] | None = None,
    normalization: Mapping[str, Any] | None = None,
    packing: str = "concatenate",
    seed: int = 0,
    rounds: Turns | None = None,
    transform: Callable[[int], Transform | None] | None = None,
    form: Form | None = None,
    template: str | None = None,
    train_bytes: bool = False,
    cache_dir: str | Path | None = None,
) -> Data:
    """Return the loaders of a run; the token shards are written into the cache if they are not there.

    Args:
        tokenizer: encodes the documents.
        seq_len: T, the length of a row.
        batch_size: B, the rows of a global batch.
        source: a key of `SOURCES`, or with a form of `RECORDS`, with its `options`; or instead
        mixture: [{"source": …, "options": {…}, "weight": 1.0}, …].
        normalization: the options of `text.normalize.normalize`.
        packing: a key of `PACKINGS`.
        seed: chooses the order.
        rounds: how clients take turns in the training split, or rows are sampled; one source then fills it. None: each
            row comes once an epoch.
        transform: seed -> what the objective makes of packed rows; evaluation has a seed of its own, always the same.
        form: what is made of the examples that the sources hold; None for text.
        template: the chat template, for the form that needs one.
        train_bytes: put `bytes` into the training batches too; validation always has them.
        cache_dir: the cache's folder (default: `text.cache.folder()`).

    Raises:
        UserError: whatever is wrong with the arguments, and with the data of a split when it is opened; the message
            names the key.
    """
    for name, value in (("seq_len", seq_len), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"data.{name}={value!r} must be a positive integer")
    parts = components(source, options, mixture)
    if rounds is not None and len(parts) > 1:
        raise UserError("data.mixture: clients come from one source; set data.source, or leave out the clients")
    pack = lookup(PACKINGS, packing, "data.packing")
    around = forms.Around(tokenizer, seq_len, seed)

    def corpora_of(part: Component, split: str, domain: int, fingerprints: list[str]) -> list[Rows]:
        evaluation = split == "validation"
        found = open_shards(part, split, domain, tokenizer, normalization, cache_dir)
        fingerprints.extend([split, *(shard.fingerprint for shard in found)])
        whole = evaluation or rounds is not None  # every token of a client counts, too
        if rounds is not None and not evaluation:
            texts = opened(part, split, normalization)
            found = rounds.clients(found, texts if isinstance(texts, Texts) else None, cache_dir)
        packed = {"seed": seed, "evaluation": whole, "pad_id": around.pad_id, "cache_dir": cache_dir}
        return [pack(shard, seq_len, **packed) for shard in found]

    def examples_of(part: Component, split: str, fingerprints: list[str]) -> list[Rows]:
        records = open_examples(part.source, part.options, split, normalization)
        if form is None or records is None:
            return []
        fingerprints.extend([split, records.fingerprint, repr(form), template or ""])
        evaluation = split == "validation"
        return [forms.rows(form, records, around, template=template, evaluation=evaluation, cache_dir=cache_dir)]

    def loaded(split: str) -> tuple[Loader | None, list[str]]:
        evaluation = split == "validation"
        marks: list[str] = []
        corpora: list[Rows] = []
        weights = []
        for domain, part in enumerate(parts):
            packed = examples_of(part, split, marks) if form is not None else corpora_of(part, split, domain, marks)
            if rounds is not None and not evaluation:
                corpora, weights = packed, [1.0] * len(packed)
            elif packed:
                corpora.append(join(packed))
                weights.append(part.weight)
        predicts = form is None or "targets" in form.blank(seq_len)
        counted = tokenizer.token_bytes if predicts and (evaluation or train_bytes) else None
        turns = None if evaluation else rounds
        reshaped = None if transform is None else transform(EVALUATION if evaluation else seed)
        loader = Loader(corpora, weights, batch_size, seed, counted, turns, reshaped) if corpora else None
        return loader, marks

    return Data(loaded)
