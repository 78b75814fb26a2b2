"""Tokenizers without merges: bytes, and the characters of a corpus."""

import json
from collections.abc import Iterable

import numpy as np

from llm_jax.text.base import Files, Kind, Tokenizer, join_bytes, read_json
from llm_jax.text.normalize import REPLACEMENT, well_formed

ALPHABET = "alphabet.json"


def read_bytes(files: Files) -> Tokenizer:
    """Return the tokenizer whose ids 0 to 255 are bytes and whose id 256 ends a document."""
    vocabulary = [bytes([i]) for i in range(256)] + [b""]
    return Tokenizer(
        kind="bytes",
        files=files,
        vocabulary=vocabulary,
        to_ids=lambda text: np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32),
        to_text=join_bytes(vocabulary),
        eos_id=256,
    )


def make_characters(texts: Iterable[str]) -> Files:
    """Return the alphabet of a corpus: its distinct characters in code-point order."""
    alphabet: set[str] = set()
    for text in texts:
        alphabet.update(well_formed(text))
    alphabet.discard(REPLACEMENT)
    return {ALPHABET: json.dumps(sorted(alphabet)).encode()}


def read_characters(files: Files) -> Tokenizer:
    """Return the tokenizer of one id a character, then one for the unknown character and one that ends a document.

    A character outside the alphabet becomes the unknown id, which decodes to U+FFFD and counts as no raw bytes
    (bits per byte then err on the high side).
    """
    alphabet: list[str] = read_json(files, ALPHABET, "tokenizer 'characters'")
    unknown = len(alphabet)
    decoded = [*alphabet, REPLACEMENT, ""]
    points = np.array([ord(c) for c in alphabet], np.uint32)

    def to_ids(text: str) -> np.ndarray:
        wanted = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        if not alphabet:
            return np.full(wanted.shape, unknown, np.int32)
        found = np.minimum(np.searchsorted(points, wanted), unknown - 1)
        return np.where(points[found] == wanted, found, unknown).astype(np.int32)

    return Tokenizer(
        kind="characters",
        files=files,
        vocabulary=[c.encode("utf-8") for c in alphabet] + [b"", b""],
        to_ids=to_ids,
        to_text=lambda ids: "".join([decoded[i] for i in ids]),
        eos_id=unknown + 1,
        joins=False,
    )


def make_bytes(texts: Iterable[str]) -> Files:
    """Return no files: bytes need no content."""
    return {}


BYTES = Kind(make_bytes, read_bytes, trains=False)
CHARACTERS = Kind(make_characters, read_characters, trains=True)
