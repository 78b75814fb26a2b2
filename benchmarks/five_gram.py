"""Bits per byte of an interpolated Kneser-Ney n-gram on the quickstart's text, split and tokenizer, as a yardstick.

    python -m benchmarks.five_gram [--order=5] [--tokenizer=bpe|bytes]

Chen & Goodman 1999, §2.7: the highest order counts occurrences, the lower ones the number of different words before.
"""

import argparse
import math

import numpy as np

from llm_jax.data.mixture import Component, open_shards, training_texts
from llm_jax.text import tokenizers


def counted(keys: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted distinct keys and how often (or with how much weight) each occurs."""
    unique, inverse = np.unique(keys, return_inverse=True)
    return unique, np.bincount(inverse, weights, len(unique))


def windows(tokens: np.ndarray, n: int, base: int) -> np.ndarray:
    """Return every run of n tokens as one number, the earliest token in the highest digit."""
    keys = np.zeros(len(tokens) - n + 1, np.uint64)
    for i in range(n):
        keys = keys * np.uint64(base) + tokens[i : len(tokens) - n + 1 + i].astype(np.uint64)
    return keys


def found(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the value of each wanted key, 0 where it was never seen."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0.0)


def probabilities(train: np.ndarray, test: np.ndarray, order: int, vocab: int) -> np.ndarray:
    """Return p(token | the order - 1 tokens before) of every token of `test` from the order-th on."""
    if vocab**order >= 2**64:
        raise ValueError(f"{order}-grams of {vocab} ids do not fit in 64 bits")
    base = np.uint64(vocab)
    p = np.full(len(test) - order + 1, 1.0 / vocab)
    for n in range(1, order + 1):
        if n == order:
            grams, counts = counted(windows(train, n, vocab))
        else:
            longer = np.unique(windows(train, n + 1, vocab))
            grams, counts = counted(longer % np.uint64(vocab**n))
        discount = (counts == 1).sum() / ((counts == 1).sum() + 2 * (counts == 2).sum())
        histories, totals = counted(grams // base, counts)
        _, kinds = counted(grams // base)
        wanted = windows(test, n, vocab)[order - n :]
        total = found(histories, totals, wanted // base)
        own = np.maximum(found(grams, counts, wanted) - discount, 0)
        spread = discount * found(histories, kinds.astype(float), wanted // base)
        seen = np.where(total > 0, total, 1.0)
        p = np.where(total > 0, own / seen + spread / seen * p, p)
    return p


def main() -> None:
    """Print the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--order", type=int, default=5)
    parser.add_argument("--tokenizer", default="bpe")
    parser.add_argument("--vocab_size", type=int, default=4096)
    flags = parser.parse_args()
    options = {"vocab_size": flags.vocab_size} if flags.tokenizer == "bpe" else {}
    words = tokenizers.build(flags.tokenizer, options, *training_texts(source="sotu"))
    part = Component("sotu", {}, 1.0)
    train, test = (
        np.concatenate([np.asarray(s.tokens) for s in open_shards(part, split, 0, words)])
        for split in ("train", "validation")
    )
    p = probabilities(train, test, flags.order, words.vocab_size)
    size = words.token_bytes[test[flags.order - 1 :]].sum()
    bits = -np.log2(p).sum() / size
    print(
        f"interpolated Kneser-Ney {flags.order}-gram, {flags.tokenizer} ({words.vocab_size} ids): "
        f"{bits:.4f} bits per byte over {size:,} bytes, perplexity {math.exp(-np.log(p).mean()):.2f}"
    )


if __name__ == "__main__":
    main()
