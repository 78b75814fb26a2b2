"""Ranks of byte pairs, as tiktoken reads them."""

import base64
import binascii
import json
from collections.abc import Iterable

import numpy as np

from llm_jax.core.table import UserError
from llm_jax.text.adapters.files import CONTROLS, content_of
from llm_jax.text.base import Added, Files, Kind, Tokenizer, join_bytes, read_json
from llm_jax.text.bpe import EOS

RANKS = "vocabulary.tiktoken"
PIECE_CHARACTERS = 50_000
MOST = 1 << 24  # ids; the largest vocabularies in use have about 2**18

PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    "cl100k": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
        r"|\s+(?!\S)|\s"
    ),
    "o200k": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}


def make(texts: Iterable[str], *, path: str, pattern: str = "cl100k", eos_id: int | None = None) -> Files:
    """Read a `.tiktoken` file; `pattern` is one of `PATTERNS` or a regular expression; eos follows the last rank."""
    meta = {"pattern": PATTERNS.get(pattern, pattern), "eos_id": eos_id}
    return {RANKS: content_of(path), CONTROLS: json.dumps(meta).encode()}


def read(files: Files) -> Tokenizer:
    """Return a tiktoken encoding of ranks and a pattern.

    A text on which its regular expressions give up is encoded in pieces of 50,000 characters, with other ids at most
    at their seams.
    """
    try:
        import tiktoken
    except ImportError:
        raise UserError("data.tokenizer.name='tiktoken' needs `pip install tiktoken`") from None
    meta, ranks = read_json(files, CONTROLS, "tokenizer 'tiktoken'"), _ranks(files[RANKS])
    eos = max(ranks.values()) + 1 if meta["eos_id"] is None else meta["eos_id"]
    if not 0 <= eos < MOST:
        raise UserError(f"data.tokenizer.eos_id={eos} is no id of a token; the last rank is {max(ranks.values())}")
    if eos in set(ranks.values()):
        raise UserError(f"data.tokenizer.eos_id={eos} is already the id of a token")
    vocabulary = [b""] * (max(*ranks.values(), eos) + 1)
    for piece, rank in ranks.items():
        vocabulary[rank] = piece
    try:
        engine = tiktoken.Encoding("file", pat_str=meta["pattern"], mergeable_ranks=ranks, special_tokens={EOS: eos})
    except ValueError as error:
        raise UserError(f"data.tokenizer.pattern={meta['pattern']!r} is not a regular expression: {error}") from None

    def to_ids(text: str) -> np.ndarray:
        try:
            return engine.encode_to_numpy(text, disallowed_special=()).view(np.int32)
        except ValueError:
            if len(text) <= PIECE_CHARACTERS:
                raise
            starts = range(0, len(text), PIECE_CHARACTERS)
            return np.concatenate([to_ids(text[i : i + PIECE_CHARACTERS]) for i in starts])

    return Tokenizer(
        kind="tiktoken", files=files, vocabulary=vocabulary, to_ids=to_ids, to_text=join_bytes(vocabulary), eos_id=eos,
        added={EOS: Added(eos)},
    )  # fmt: skip


def _ranks(content: bytes) -> dict[bytes, int]:
    """Return {bytes: rank} from lines of "base64 rank"."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = found = int(rank)
        except (ValueError, binascii.Error):
            raise UserError(f"{RANKS}: line {number} is not 'base64 rank': {line[:40]!r}") from None
        if not 0 <= found < MOST:
            raise UserError(f"{RANKS}: line {number}: {found} is no id of a token")
    if any(bytes([i]) not in ranks for i in range(256)) or len(set(ranks.values())) != len(ranks):
        raise UserError(f"{RANKS}: the ranks repeat or do not cover all 256 bytes")
    return ranks


TIKTOKEN = Kind(make, read, trains=False)
