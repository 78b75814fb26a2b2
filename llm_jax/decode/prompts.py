"""Prompts as rows of a few sizes, so that few programs are compiled, and what makes a prompt no prompt."""

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from llm_jax.core.table import UserError
from llm_jax.core.types import Model

SMALLEST_BUCKET = 32  # lengths are rounded up to 32, 64, 128, ... slots; the number of rows to 1, 2, 4, ...
ALL = np.iinfo(np.int32).max


class Prompts(NamedTuple):
    """Right-aligned rows, padding first. draws: what tells a row's draws from another's, a hash and a number."""

    tokens: Int[Any, "B T"]
    segments: Int[Any, "B T"]
    draws: Int[Any, "B 2"]


def aligned(prompts: Sequence[tuple[Sequence[int], int]], most: int) -> Prompts:
    """Return (prompt, number of its sample) pairs as right-aligned rows, filled up to the buckets."""
    rows = bucket(len(prompts), 1)
    width = min(bucket(max(len(prompt) for prompt, _ in prompts)), most)
    out = Prompts(np.zeros((rows, width), np.int32), np.zeros((rows, width), np.int32), np.zeros((rows, 2), np.uint32))
    for row, (prompt, number) in enumerate(prompts):
        ids = np.asarray(prompt, np.int32)
        out.tokens[row, width - len(ids) :] = ids
        out.segments[row, width - len(ids) :] = 1
        out.draws[row] = zlib.crc32(ids.tobytes()), number
    return out


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
