"""Prompts as rows of a few sizes, so that few programs are compiled, and what makes a prompt no prompt."""

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from llm_jax.core.table import UserError
from llm_jax.core.types import Batch, Conditional, Model

SMALLEST_BUCKET = 32  # lengths are rounded up to 32, 64, 128, ... slots; the number of rows to 1, 2, 4, ...
ALL = np.iinfo(np.int32).max


class Prompts(NamedTuple):
    """Right-aligned rows, padding first. draws: what tells a row's draws from another's, a hash and a number.

    sources: of an encoder-decoder, `source_tokens` and `source_segments` [B,S], padding last.
    """

    tokens: Int[Any, "B T"]
    segments: Int[Any, "B T"]
    draws: Int[Any, "B 2"]
    sources: dict[str, Int[Any, "B S"]] | None = None

    @property
    def batch(self) -> Batch:
        """What a model reads."""
        return {"tokens": self.tokens, "segments": self.segments, **(self.sources or {})}


def aligned(
    prompts: Sequence[Sequence[int]], most: int, sources: Sequence[Sequence[int]] | None = None, num: int = 1
) -> Prompts:
    """Return `num` rows of each prompt, right-aligned, filled up to the buckets; of an encoder-decoder with sources.

    The prompts of an encoder-decoder are short, one id or two, and are not filled up.
    """
    rows = bucket(len(prompts) * num, 1)
    width = min(bucket(max(map(len, prompts)), SMALLEST_BUCKET if sources is None else 1), most)
    tokens, segments = np.zeros((2, rows, width), np.int32)
    draws = np.zeros((rows, 2), np.uint32)
    for row in range(len(prompts) * num):
        ids = np.asarray(prompts[row // num], np.int32)
        tokens[row, width - len(ids) :], segments[row, width - len(ids) :] = ids, 1
        source = np.asarray([] if sources is None else sources[row // num], np.int32)
        draws[row] = zlib.crc32(source.tobytes() + ids.tobytes()), row % num
    return Prompts(tokens, segments, draws, None if sources is None else _sources(sources, most, rows, num))


def _sources(sources: Sequence[Sequence[int]], most: int, rows: int, num: int) -> dict[str, Int[Any, "B S"]]:
    width = min(bucket(max(map(len, sources))), most)
    tokens, segments = np.zeros((2, rows, width), np.int32)
    for row in range(len(sources) * num):
        ids = sources[row // num]
        tokens[row, : len(ids)], segments[row, : len(ids)] = ids, 1
    return {"source_tokens": tokens, "source_segments": segments}


def bucket(size: int, smallest: int = SMALLEST_BUCKET) -> int:
    """Return the least power of two from `smallest` that holds `size`."""
    return max(smallest, 1 << (size - 1).bit_length())


def check_prompts(model: Model, prompts: Sequence[Sequence[int]], new: int, what: str = "prompt") -> None:
    """Refuse no prompt, empty ones, ids outside the vocabulary, and texts that, with `new` tokens, are too long.

    Raises:
        UserError: with the number of the prompt and what is wrong with it.
    """
    if not len(prompts):
        raise UserError(f"there is no {what}; give at least one")
    vocabulary, positions = getattr(model, "vocab_size", ALL), getattr(model, "max_positions", ALL)
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise UserError(f"{what} {number} holds no token; give at least one, such as the id that starts a text")
        wrong = [i for i in prompt if not 0 <= i < vocabulary]
        if wrong:
            raise UserError(f"{what} {number} holds id {wrong[0]}, outside model.vocab_size={vocabulary}")
        if len(prompt) + new > positions:
            raise UserError(
                f"{what} {number} has {len(prompt)} tokens, and with {new} new ones it would exceed "
                f"model.max_positions={positions}; ask for at most {max(0, positions - len(prompt))}, or shorten it"
            )


def check_sources(model: Model, prompts: Sequence[Sequence[int]], sources: Sequence[Sequence[int]] | None) -> None:
    """Refuse sources for a model that reads none, another number of them than of prompts, and what is no prompt.

    Raises:
        UserError: what is wrong.
    """
    if sources is None:
        return
    if not isinstance(model, Conditional):
        raise UserError(f"model.name={type(model).__name__.lower()!r} reads no source beside its prompt; leave it out")
    if len(sources) != len(prompts):
        raise UserError(f"{len(prompts)} prompts and {len(sources)} sources; give one of each a text")
    check_prompts(model, sources, 0, what="source")
