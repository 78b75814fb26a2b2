"""T5's span corruption (Raffel et al. 2020, §3.1.4): spans of a text become sentinels, the target says what they were.

Lengths and masks are those of the published code (t5.data.preprocessors: random_spans_helper, random_spans_noise_mask).
"""

from typing import NamedTuple

import numpy as np

from llm_jax.data.corrupt.rows import Texts, kept


class Amount(NamedTuple):
    """How much is hidden: tokens and spans, int64 [B]; a text starts with what is not hidden."""

    noise: np.ndarray
    spans: np.ndarray


def amount(sizes: np.ndarray, rate: np.ndarray | float, mean: np.ndarray | float) -> Amount:
    """Return what is hidden of texts of so many tokens [B]: `rate` of the tokens, in spans of `mean` on average.

    Every text of two tokens or more hides one and shows one at least; shorter ones hide nothing.
    """
    wanted = np.round(np.float32(sizes) * np.float32(rate)).astype(np.int64)
    most = np.maximum(sizes - 1, 0)
    noise = np.asarray(np.clip(wanted, np.minimum(1, most), most))
    spans = np.maximum(np.round(np.float32(noise) / np.float32(mean)).astype(np.int64), 1)
    return Amount(noise, np.asarray(np.minimum(spans, np.minimum(noise, sizes - noise))))


def widths(size: int, rate: float, mean: float) -> tuple[int, int]:
    """Return the tokens of source and target of a text of `size` tokens, without the ids that end them."""
    noise, spans = (int(n[0]) for n in amount(np.array([size]), rate, mean))
    return size - noise + spans, noise + spans


def segmentation(random: np.ndarray, items: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Return the number of the segment of each item, int64 [B,N] from 0: every way to cut is as likely as another.

    Args:
        random: uniform numbers [B,N].
        items: of each row, int64 [B]; places after them are of the last segment.
        segments: into which they are cut, none empty, int64 [B].
    """
    cuts = np.where(np.arange(random.shape[1]) < items[:, None] - 1, random, 2.0)  # a cut follows an item, not the last
    chosen = np.argsort(np.argsort(cuts, axis=1, kind="stable"), axis=1) < (segments - 1)[:, None]
    return np.pad(np.cumsum(chosen, 1), ((0, 0), (1, 0)))[:, :-1]


def lengths(segment: np.ndarray, items: np.ndarray, most: int) -> np.ndarray:
    """Return how many of the `items` [B] each segment has, int64 [B,most]."""
    real = np.arange(segment.shape[1]) < items[:, None]
    rows = np.broadcast_to(np.arange(len(items))[:, None], segment.shape)
    counts = np.zeros((len(items), most), np.int64)
    np.add.at(counts, (rows[real], segment[real]), 1)
    return counts


def mask(random: np.ndarray, sizes: np.ndarray, hidden: Amount) -> np.ndarray:
    """Return where a text is hidden, bool [B,T]: shown and hidden spans in turn, a shown one first.

    Args:
        random: uniform numbers [B,2,T].
        sizes: tokens of each text, int64 [B].
        hidden: how much of them.
    """
    (B, _, T), most = random.shape, max(1, int(hidden.spans.max(initial=1)))
    parts = [
        lengths(segmentation(random[:, i], items, hidden.spans), items, most)
        for i, items in enumerate((sizes - hidden.noise, hidden.noise))
    ]
    starts = np.cumsum(np.stack(parts, 2).reshape(B, 2 * most), 1)  # where each span ends
    turns = np.zeros((B, T + 1), np.int64)
    np.add.at(turns, (np.arange(B)[:, None], np.minimum(starts, T)), 1)
    odd: np.ndarray = np.cumsum(turns, 1)[:, :T] % 2 == 1
    return odd & (np.arange(T) < sizes[:, None])


def shown(text: Texts, hidden: np.ndarray, last: int) -> Texts:
    """Return texts in which each hidden span is one sentinel: `last` for the first, counting down.

    Args:
        text: of B rows.
        hidden: bool [B,T].
        last: the greatest id of the sentinels.
    """
    hidden = hidden & text.real
    first = hidden & ~np.pad(hidden, ((0, 0), (1, 0)))[:, :-1]
    ids = np.where(first, last + 1 - np.cumsum(first, 1), text.ids)
    return kept(ids, text.real & (~hidden | first))


def corrupt(text: Texts, hidden: np.ndarray, last: int) -> tuple[Texts, Texts]:
    """Return (source, target): the target is the text with what the source shows as sentinels.

    Where nothing is hidden (a text of one token) the target is empty.
    """
    asked = Texts(text.ids, np.where((hidden & text.real).any(1), text.sizes, 0))
    return shown(text, hidden, last), shown(asked, ~hidden, last)


def restore(source: list[int], target: list[int], sentinels: range) -> list[int]:
    """Return the text of which source and target are the two halves; sentinels are the ids of that range."""
    said: dict[int, list[int]] = {}
    at = None
    for i in target:
        if i in sentinels:
            at = said.setdefault(i, [])
        elif at is not None:
            at.append(i)
    return [i for token in source for i in (said.get(token, []) if token in sentinels else [token])]
