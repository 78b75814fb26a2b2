"""The table of tokenizers, and the three ways to one: train it, read a foreign file, load a saved one."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from etils import epath

from llm_jax.core.table import UserError, lookup
from llm_jax.text import cache
from llm_jax.text.base import META, Files, Kind, Tokenizer, fingerprint
from llm_jax.text.options import check

TOKENIZERS = {
    "bytes": "llm_jax.text.simple:BYTES",
    "characters": "llm_jax.text.simple:CHARACTERS",
    "bpe": "llm_jax.text.bpe:BPE",
    "huggingface": "llm_jax.text.adapters.huggingface:HUGGINGFACE",
    "sentencepiece": "llm_jax.text.adapters.sentencepiece:SENTENCEPIECE",
    "tiktoken": "llm_jax.text.adapters.tiktoken:TIKTOKEN",
}

log = logging.getLogger(__name__)


def build(
    name: str,
    options: Mapping[str, Any] | None = None,
    texts: Callable[[], Iterable[str]] | None = None,
    texts_fingerprint: str | None = None,
    cache_dir: str | Path | None = None,
) -> Tokenizer:
    """Return the tokenizer `name`, trained on `texts` if it is of a kind that trains.

    Args:
        name: a key of `TOKENIZERS`.
        options: the kind's own options, such as {"vocab_size": 4096} or {"path": "tokenizer.json"}.
        texts: gives the training texts anew at each call; only called when there is something to train.
        texts_fingerprint: says what the texts are; with it a trained tokenizer is kept in the cache and found again.
        cache_dir: the cache's folder (default: `cache.folder()`).

    Raises:
        UserError: unknown name or option, texts needed and not given, or a file that is missing or broken.
    """
    kind: Kind = lookup(TOKENIZERS, name, "data.tokenizer.name")
    chosen = check(kind.make, options or {}, "data.tokenizer")
    if not kind.trains:
        return kind.read(kind.make((), **chosen))
    if texts is None:
        raise UserError(f"data.tokenizer.name={name!r} is trained, and there is no text to train it on")
    if texts_fingerprint is None:
        return kind.read(kind.make(texts(), **chosen))
    where = cache.folder(cache_dir) / "tokenizers" / cache.key("tokenizer", name, chosen, texts_fingerprint, version=1)
    try:
        return load(where)
    except UserError as error:
        if where.exists():
            log.warning("the cached tokenizer is damaged and will be trained again: %s", error)
    tokenizer = kind.read(kind.make(texts(), **chosen))
    cache.publish(where, tokenizer.save, replace=True)
    return tokenizer


def load(directory: Any) -> Tokenizer:
    """Return the tokenizer saved in `directory` (a workdir's `tokenizer/`): data only, no code is imported.

    Raises:
        UserError: there is none, it is of an unknown kind, or its files are not those that were saved.
    """
    folder = epath.Path(directory)
    try:
        meta = json.loads((folder / META).read_text())
        name, wanted = str(meta["kind"]), meta["fingerprint"]
        files: Files = {file: (folder / Path(file).name).read_bytes() for file in meta["files"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{folder} does not hold a saved tokenizer ({META}): {error}") from None
    kind: Kind = lookup(TOKENIZERS, name, f"{folder / META}: kind")
    if fingerprint(name, files) != wanted:
        raise UserError(f"{folder}: the tokenizer's files have changed since they were saved; restore them")
    return kind.read(files)
