"""Token shards: documents in, one memory-mapped array of tokens with an index of its documents out.

A shard is a folder: `tokens.bin` (uint16, or uint32 for large vocabularies), `documents.idx` (one `DOCUMENT` a
document) and `shard.json` (tokenizer fingerprint, counts, a CRC-32 of each MiB of both files), written last.

The tokens are "start text end start text end …", where the end is the tokenizer's eos and the start its bos; without
a bos the end before a document is its start, and one stands before the first. So each document's span
`tokens[offset : offset + tokens]` (text and end) is predicted from `tokens[offset - 1 : …]`, whatever the packing.
"""

import hashlib
import json
import logging
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from llm_jax.core.table import UserError
from llm_jax.text import cache
from llm_jax.text.base import Tokenizer

FORMAT = 1
MIB = 1 << 20
FULL_CHECK_BYTES = 256 * MIB  # an opened shard up to this size is checked whole, a larger one by its sizes
BATCH_CHARACTERS = 4 * MIB
DOCUMENT = np.dtype([("offset", "<i8"), ("tokens", "<i8"), ("bytes", "<i8"), ("hash", "<u8"), ("domain", "<i8")])
TOKENS, INDEX, META = "tokens.bin", "documents.idx", "shard.json"

log = logging.getLogger(__name__)


class Text(Protocol):
    """What a shard needs of a document."""

    @property
    def text(self) -> str: ...
    @property
    def domain(self) -> int: ...


class Shard(NamedTuple):
    """An open shard: tokens uint16 or uint32 [N], documents [n] of dtype `DOCUMENT`, and the content of `shard.json`.

    `starts` says whether every document has a start token before it.
    """

    tokens: np.ndarray
    documents: np.ndarray
    meta: dict[str, Any]

    @property
    def starts(self) -> bool:
        return bool(self.meta["starts"])

    @property
    def fingerprint(self) -> str:
        """A hash of the content."""
        return str(self.meta["fingerprint"])


class EmptyError(UserError):
    """There is no text."""


class DamagedError(Exception):
    """A shard is not what was written."""


def build(
    documents: Iterable[Text], tokenizer: Tokenizer, fingerprint: str, cache_dir: str | Path | None = None
) -> Shard:
    """Return the shard of `documents`, from the cache if it is there and sound, else written now.

    Args:
        documents: read once, and only if the shard has to be written.
        tokenizer: encodes them; its fingerprint is part of the cache's key.
        fingerprint: says what the documents are, normalisation included.
        cache_dir: the cache's folder (default: `cache.folder()`).

    Raises:
        EmptyError: there is no document, or no text in any.
        UserError: the tokenizer makes no token of them.
    """
    root = cache.folder(cache_dir) / "shards"
    where = root / cache.key("shard", fingerprint, tokenizer.fingerprint, version=FORMAT)
    if where.exists():
        try:
            return open_shard(where)
        except DamagedError as error:
            log.warning("a cached shard is damaged and will be written again: %s", error)
            cache.discard(where)
    cache.publish(where, lambda folder: write(folder, documents, tokenizer))
    return open_shard(where)


def write(folder: Path, documents: Iterable[Text], tokenizer: Tokenizer) -> None:
    """Write a shard's three files into an existing folder.

    Raises:
        EmptyError: there is no document, or no text in any.
        UserError: the tokenizer makes no token of them.
    """
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    written, rows = 0, []
    with open(folder / TOKENS, "wb") as file:

        def append(ids: Any) -> None:
            nonlocal written
            file.write(np.asarray(ids, dtype).tobytes())
            written += len(ids)

        append([] if start else end)
        for batch in _batches(documents):
            for document, ids in zip(batch, tokenizer.encode_batch([d.text for d in batch]), strict=True):
                append(start)
                raw = document.text.encode("utf-8", "replace")
                rows.append((written, len(ids) + len(end), len(raw), _hash(raw), document.domain))
                append(ids)
                append(end)
    if not any(row[2] for row in rows):
        raise EmptyError("the data hold no text: every document is empty")
    if not written:
        raise UserError("the tokenizer makes no token of any text of the data; choose another, by data.tokenizer")
    np.array(rows, DOCUMENT).tofile(folder / INDEX)
    meta = {
        "format": FORMAT,
        "tokenizer": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "dtype": dtype.str,
        "starts": bool(start or end),
        "tokens": written,
        "documents": len(rows),
        "bytes": sum(row[2] for row in rows),
        "crc32": {name: _checksums(folder / name) for name in (TOKENS, INDEX)},
    }
    meta["fingerprint"] = cache.key(meta, version=FORMAT)
    (folder / META).write_text(json.dumps(meta) + "\n")


def open_shard(folder: str | Path, full: bool | None = None) -> Shard:
    """Return the shard in `folder`, memory-mapped.

    Args:
        folder: holds the three files.
        full: check every byte; by default only if the shard is small (`FULL_CHECK_BYTES`), else the sizes.

    Raises:
        DamagedError: a file is missing or not what was written; the message says which, and where.
    """
    where = Path(folder)
    try:
        meta = json.loads((where / META).read_text())
        if meta["format"] != FORMAT:
            raise DamagedError(f"{where / META}: format {meta['format']} is not {FORMAT}, which this version reads")
        unsigned = {name: value for name, value in meta.items() if name != "fingerprint"}
        if meta["fingerprint"] != cache.key(unsigned, version=FORMAT):
            raise DamagedError(f"{where / META} has changed since it was written")
        dtype = np.dtype(meta["dtype"])
        sizes = {TOKENS: meta["tokens"] * dtype.itemsize, INDEX: meta["documents"] * DOCUMENT.itemsize}
        for name, size in sizes.items():
            if (where / name).stat().st_size != size:
                raise DamagedError(f"{where / name} has {(where / name).stat().st_size} bytes instead of {size}")
        checksums = {name: list(meta["crc32"][name]) for name in sizes}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{where} is not a whole shard: {error!r}") from None
    if full or (full is None and sum(sizes.values()) <= FULL_CHECK_BYTES):
        for name, wanted in checksums.items():
            verify(where / name, wanted)
    tokens = np.memmap(where / TOKENS, dtype, "r")
    # A plain view of the map: indexing a memmap costs several times as much as indexing an array.
    return Shard(tokens.view(np.ndarray), np.fromfile(where / INDEX, DOCUMENT), meta)


def verify(path: Path, wanted: list[int]) -> None:
    """Compare a file with the checksums of its MiBs.

    Raises:
        DamagedError: they differ; the message names the first MiB that does.
    """
    found = _checksums(path)
    if found != wanted:
        same = [a == b for a, b in zip(found, wanted, strict=False)]
        bad = same.index(False) if False in same else len(same)
        raise DamagedError(f"{path}: MiB {bad} does not have the checksum that it was written with")


def _checksums(path: Path) -> list[int]:
    """Return the CRC-32 of each MiB of a file."""
    with open(path, "rb") as file:
        return [zlib.crc32(block) for block in iter(lambda: file.read(MIB), b"")]


def _hash(raw: bytes) -> int:
    """Return 64 bits that identify a document's text."""
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


def _batches(documents: Iterable[Text]) -> Iterator[list[Text]]:
    """Yield documents in lists of about `BATCH_CHARACTERS`, so that threads can share the work."""
    batch: list[Text] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
