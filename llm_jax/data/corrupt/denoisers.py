"""What BART hides and moves (Lewis et al. 2020, §2.2), and UL2's mixture of denoisers (Tay et al. 2022, table 1)."""

import math
from typing import NamedTuple

import numpy as np

from llm_jax.data.corrupt.rows import Texts, kept
from llm_jax.data.corrupt.spans import Amount, amount


class Denoiser(NamedTuple):
    """A span corruption: its mode (`R` regular, `S` sequential, `X` extreme), share hidden, and mean span in tokens.

    A mean of None is one span, which ends the text.
    """

    mode: str
    rate: float
    mean: float | None


MODES = ("R", "S", "X")
UL2 = (
    Denoiser("R", 0.15, 3.0),
    Denoiser("R", 0.15, 8.0),
    Denoiser("S", 0.25, None),
    Denoiser("X", 0.5, 3.0),
    Denoiser("X", 0.5, 8.0),
    Denoiser("X", 0.15, 64.0),
    Denoiser("X", 0.5, 64.0),
)


def drawn(random: np.ndarray, sizes: np.ndarray, denoisers: tuple[Denoiser, ...] = UL2) -> tuple[np.ndarray, Amount]:
    """Return the denoiser of each row, int64 [B], each as likely, and how much it hides of a text of its size [B]."""
    chosen = np.floor(random * len(denoisers)).astype(np.int64)
    rate = np.array([d.rate for d in denoisers])[chosen]
    mean = np.array([math.inf if d.mean is None else d.mean for d in denoisers])[chosen]
    return chosen, amount(sizes, rate, mean)


def poisson(random: np.ndarray, mean: float) -> np.ndarray:
    """Return int64 numbers of a Poisson distribution, cut at mean + 10·√mean + 10, by inversion of uniform numbers."""
    ks = np.arange(math.ceil(mean + 10 * math.sqrt(mean) + 10))
    log = ks * math.log(mean) - mean - np.array([math.lgamma(k + 1) for k in ks])
    return np.searchsorted(np.cumsum(np.exp(log)), random, side="right").clip(0, len(ks) - 1)


def infilled(text: Texts, random: np.ndarray, *, rate: float, mean: float, mask: int) -> tuple[Texts, np.ndarray]:
    """Return texts in which spans are one mask each, and int64 [B,T] span lengths, -1 after a row's last.

    Lengths are Poisson until `rate` of the tokens is hidden; the last is what remains. A span of none is a mask put
    in. No two spans touch, so that a mask stands for one.

    Args:
        text: of B rows.
        random: uniform numbers [B,2,T+1].
        rate: share of the tokens, rounded up, that is hidden.
        mean: of the lengths.
        mask: its id.
    """
    B, T = text.ids.shape
    budget = np.ceil(np.float32(text.sizes) * np.float32(rate)).astype(np.int64)
    budget = np.minimum(budget, text.sizes // 2)  # else there may be no room between spans
    sizes = poisson(random[:, 0, :T], mean)
    before = np.cumsum(sizes, 1) - sizes
    wanted = np.minimum(sizes, budget[:, None] - before)
    number = np.arange(T)
    used = (before < budget[:, None]) & (number < budget[:, None])
    last = number == budget[:, None] - 1  # at most a span a token: the source is no longer than the text
    wanted = np.where(last & used, budget[:, None] - before, wanted)
    sizes = np.where(used, wanted, -1)
    gaps = text.sizes - budget + 1  # before, between and after the tokens that are shown
    keys = np.where(np.arange(T + 1) < gaps[:, None], random[:, 1], 2.0)
    rank = np.argsort(np.argsort(keys, axis=1, kind="stable"), axis=1)  # gap -> which span is there
    filled = rank < used.sum(1)[:, None]
    span = np.where(filled, np.take_along_axis(sizes, np.minimum(rank, T - 1), 1), 0)
    # The new place of each thing: a mask in its gap, then the token that is shown after the gap.
    shown = np.arange(T + 1) < (text.sizes - budget)[:, None]
    at = np.minimum(np.cumsum(span, 1) + np.arange(T + 1), T - 1)
    after = np.take_along_axis(text.ids, at, 1)
    things = np.stack([np.full((B, T + 1), mask), after], 2).reshape(B, -1)
    made = kept(things, np.stack([filled, shown], 2).reshape(B, -1))
    return Texts(made.ids[:, :T], made.sizes), sizes


def permuted(text: Texts, random: np.ndarray, closes: np.ndarray) -> Texts:
    """Return texts with their sentences in a random order, each whole.

    Args:
        text: of B rows.
        random: uniform numbers [B,T].
        closes: whether an id is the last of a sentence, bool [V].
    """
    last = closes[text.ids] & text.real
    sentence = np.cumsum(last, 1) - last
    keys = np.where(text.real, np.take_along_axis(random, sentence, 1), 2.0)
    return Texts(np.take_along_axis(text.ids, np.argsort(keys, axis=1, kind="stable"), 1), text.sizes)
