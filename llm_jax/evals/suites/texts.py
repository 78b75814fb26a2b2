"""Whole texts under a model that reads from left to right: windows, batches of like lengths, sums of each text."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from llm_jax.core.types import Model, Params
from llm_jax.decode.prompts import bucket
from llm_jax.decode.score import Score, score
from llm_jax.text.base import Tokenizer

Ids = Sequence[int]

TOKENS, ROWS = 4096, 64  # of a batch at most, padding included; one text may have more tokens


class Reading(NamedTuple):
    """How texts are read. start: the id before each. window: the most tokens that are read at once."""

    tokenizer: Tokenizer
    start: int
    window: int


def windows(ids: Ids, start: int, width: int) -> list[tuple[list[int], list[int]]]:
    """Return (context, continuation) pairs in which every id is told once, after `start` or those before it.

    The model reads at most `width` ids for each. The last window begins so early that it is full (as lm-eval's do).
    """
    pairs = []
    for told in range(0, len(ids), width):
        end = min(told + width, len(ids))
        context = [start] if told == 0 else ids[end - width - 1 : told]
        pairs.append((list(context), list(ids[told:end])))
    return pairs


def batches(lengths: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the indices of rows that are read together: of like length, the longest first."""
    order = np.argsort([-n for n in lengths], kind="stable")
    at = 0
    while at < len(order):
        rows = min(ROWS, max(1, TOKENS // bucket(lengths[order[at]])))
        yield order[at : at + rows]
        at += rows


def scores(model: Model, params: Params, pairs: Sequence[tuple[Ids, Ids]]) -> Score:
    """Return log p(continuation | context) and the like of many pairs, in their order.

    Raises:
        UserError: as `decode.score.score`.
    """
    log_prob, length = np.zeros(len(pairs)), np.zeros(len(pairs), np.int64)
    greedy = np.zeros(len(pairs), bool)
    for rows in batches([len(context) + len(more) - 1 for context, more in pairs]):
        found = score(model, params, [pairs[i][0] for i in rows], [pairs[i][1] for i in rows])
        log_prob[rows], length[rows], greedy[rows] = found
    return Score(log_prob, length, greedy)


def rolling(model: Model, params: Params, texts: Sequence[Ids], start: int, width: int) -> np.ndarray:
    """Return log p of each whole text, float64 [N] in nats, by `windows`; 0 of an empty one."""
    parts = [windows(ids, start, width) for ids in texts]
    text = np.repeat(np.arange(len(texts)), [len(part) for part in parts])
    found = scores(model, params, [pair for part in parts for pair in part]) if len(text) else None
    return np.bincount(text, None if found is None else found.log_prob, len(texts)).astype(np.float64)


def pair(reading: Reading, context: str, answer: str) -> tuple[list[int], list[int]]:
    """Return the ids of a context and of an answer to it, as they are in the text of both (as lm-eval's are).

    Spaces at the end of the context belong to the answer; what the model cannot read of the beginning is left out.
    """
    kept = context.rstrip()
    answer = context[len(kept) :] + answer
    words = reading.tokenizer
    first = [] if words.bos_id is None else [words.bos_id]
    before = first + words.encode(kept).tolist()
    more = (first + words.encode(kept + answer).tolist())[len(before) :]
    whole = [*(before or [reading.start]), *more][-(reading.window + 1) :]
    return whole[: len(whole) - len(more)], more
