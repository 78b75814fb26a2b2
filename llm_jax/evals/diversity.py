"""How much drawn texts differ from each other, and how likely a model of counts finds them.

Of samples without a likelihood: distinct n-grams (Li et al. 2016) fall and self-BLEU (Zhu et al. 2018) rises where a
generator repeats itself; the bits per byte under a counted n-gram rise where it writes what nobody would.
"""

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial

import jax
import numpy as np

from llm_jax.core.table import UserError
from llm_jax.core.types import Counts, Params
from llm_jax.evals.perplexity import Estimate, perplexity, row_sums

Texts = Sequence[Sequence[int]]
NONE = 0.1  # n-grams that are counted where none is found (Chen & Cherry 2014, method 1)


def diversity(texts: Texts) -> dict[str, float]:
    """Return `distinct_1`, `distinct_2` and `self_bleu` of texts as ids."""
    return {"distinct_1": distinct(texts, 1), "distinct_2": distinct(texts, 2), "self_bleu": self_bleu(texts)}


def distinct(texts: Texts, n: int) -> float:
    """Return the number of different n-grams by that of all, over all texts; nan where there is none."""
    found = sum((_grams(text, n) for text in texts), Counter())
    return len(found) / found.total() if found else math.nan


def self_bleu(texts: Texts, n: int = 4) -> float:
    """Return the mean BLEU of each text with all others as its references: 1 where all are equal.

    Raises:
        UserError: there are fewer than two texts.
    """
    if len(texts) < 2:
        raise UserError(f"self-BLEU compares texts with each other; there are {len(texts)}, draw at least 2")
    grams = [[_grams(text, k) for k in range(1, n + 1)] for text in texts]
    others = [_without(np.arange(len(texts)), i) for i in range(len(texts))]
    scores = [
        _bleu(grams[i], [grams[j] for j in rest], len(texts[i]), [len(texts[j]) for j in rest])
        for i, rest in enumerate(others)
    ]
    return float(np.mean(scores))


def counted(model: Counts, params: Params, texts: np.ndarray, sizes: np.ndarray) -> Estimate:
    """Return the bits per byte of texts under a model of counts, each token given those before it, the first free.

    Args:
        params: ready to predict from.
        texts: ids [N,T]. sizes: bytes of each id of the vocabulary.
    """
    tokens = np.asarray(texts, np.int32)
    batch = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "bytes": np.asarray(sizes, np.int32)[tokens[:, 1:]]}
    return perplexity(jax.jit(partial(row_sums, model, params)), [batch])["bits_per_byte"]


def _bleu(grams: list[Counter], references: list[list[Counter]], size: int, sizes: list[int]) -> float:
    """BLEU of one text (Papineni et al. 2002), with `NONE` matches where there are none."""
    if not size or not any(grams[0][gram] for reference in references for gram in reference[0]):
        return 0.0
    log_precisions = []
    for k, own in enumerate(grams):
        most: Counter = Counter()
        for reference in references:
            most |= reference[k]
        matches, total = (own & most).total(), max(1, own.total())
        log_precisions.append(math.log((matches or NONE) / total))
    nearest = min(sizes, key=lambda other: (abs(other - size), other))
    return math.exp(min(0.0, 1 - nearest / size) + sum(log_precisions) / len(grams))


def _grams(text: Sequence[int], n: int) -> Counter:
    return Counter(zip(*(text[i:] for i in range(n)), strict=False))


def _without(numbers: np.ndarray, i: int) -> list[int]:
    return np.delete(numbers, i).tolist()
