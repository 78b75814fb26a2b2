"""A tokenizer.json whose pairs are sentencepiece's ("▁" is a space) as pieces with scores: llama.cpp's kind "llama".

llama.cpp joins the neighbours whose join has the best score, whatever the two are, and `tokenizers` the listed pair of
the lowest rank. They do the same where a score falls with the rank of the pairs that make a piece, and each piece,
merged alone, ends as itself: the proof is that of `text.bpe`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from llm_jax.interop.pieces import BYTE, NORMAL, UNKNOWN, USER
from llm_jax.text.adapters.files import SPACE

NO_SCORE = -1e4  # of what no pair makes
SHOWN = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
FIRST = {"type": "Prepend", "prepend": SPACE}
IDLE = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
WHOLE = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never", "split": False}


class Unlike(ValueError):
    """Why a tokenizer cannot be said by scores."""


def spaced(spec: Mapping[str, Any]) -> bool:
    """Say whether pieces have visible spaces."""
    return SPACE in str(spec.get("normalizer")) or SPACE in str(spec.get("pre_tokenizer"))


def metadata(spec: Mapping[str, Any], engine: Any, tokens: Sequence[str], types: Sequence[int]) -> dict[str, Any]:
    """Return `tokens`, `scores`, types and the rest, under the keys of GGUF.

    Args:
        spec: tokenizer.json. engine: the `tokenizers` object that it makes.
        tokens, types: one each an id, as they are for pairs.

    Raises:
        Unlike: llama.cpp would split some text otherwise.
    """
    model, prefix = spec["model"], _prefix(spec)
    ids = {f"<0x{byte:02X}>" for byte in range(256)}
    if not model.get("byte_fallback") or not ids <= model["vocab"].keys():
        raise Unlike("a character that has no piece does not become its bytes")
    ranks = _ranks(model["merges"])
    merged = [t for t, kind in zip(tokens, types, strict=True) if kind == NORMAL or (kind == USER and SPACE in t)]
    plain = [t for t in merged if t not in ids | {model["unk_token"]}]
    split = next((t for t in plain if [piece.value for piece in engine.model.tokenize(t)] != [t]), None)
    if model.get("ignore_merges") or split is not None:
        raise Unlike(f"the piece {split!r} is not what its pairs make" if split else "it takes words past its pairs")
    special = dict.fromkeys(ids, BYTE) | {model["unk_token"]: UNKNOWN}
    return {
        "model": "llama", "pre": "default", "tokens": list(tokens),
        "scores": [0.0 if t in ids else -float(ranks[t]) if t in ranks else NO_SCORE for t in tokens],
        "token_type": [special.get(t, kind) for t, kind in zip(tokens, types, strict=True)],
        "add_space_prefix": prefix,
    }  # fmt: skip


def _prefix(spec: Mapping[str, Any]) -> bool:
    """Return whether a text begins with a space of its own."""
    before, split = spec.get("normalizer"), spec.get("pre_tokenizer")
    steps = before["normalizers"] if before and before["type"] == "Sequence" else [before] if before else []
    if (steps == [SHOWN] and split in (None, IDLE)) or (not steps and split == WHOLE):
        return False
    if steps == [FIRST, SHOWN] and split in (None, IDLE):
        return True
    raise Unlike(f"llama.cpp has no word for its steps {[s['type'] for s in [*steps, split] if s]} with their options")


def _ranks(merges: Sequence[Any]) -> dict[str, int]:
    """Return {piece: number of the first of its pairs}, which must follow each other."""
    joined = ["".join(pair if isinstance(pair, list) else pair.split(" ")) for pair in merges]
    ranks: dict[str, int] = {}
    for rank, piece in enumerate(joined):
        if ranks.setdefault(piece, rank) != rank and joined[rank - 1] != piece:
            raise Unlike(f"the pairs that make {piece!r} do not follow each other")
    return ranks
