"""Texts as people send them: mistyped, in odd case, with odd spaces; the same for the same (seed, number)."""

from collections.abc import Callable

import numpy as np

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
SPACES = ("  ", "\t", "\n", "")


def perturbed(kind: str, text: str, rate: float, seed: int, number: int) -> str:
    """Return a text with about `rate` of its characters (of its spaces, for "whitespace") changed.

    Args:
        kind: a key of `PERTURBATIONS`.
        text: what is changed.
        rate: the chance of each, from 0 to 1.
        seed, number: choose the changes; the number of the text among several.
    """
    random = np.random.default_rng([seed, number, *kind.encode()])
    return PERTURBATIONS[kind](text, random.random(len(text)) < rate, random)


def typos(text: str, chosen: np.ndarray, random: np.random.Generator) -> str:
    """Each chosen letter is left out, doubled, replaced by another, or exchanged with the one after it."""
    out, ways, letters = list(text), random.integers(0, 4, len(text)), random.integers(0, 26, len(text))
    for i in np.flatnonzero(chosen):
        if not text[i].isalpha():
            continue
        if ways[i] == 3 and i + 1 < len(out):
            out[i], out[i + 1] = out[i + 1], out[i]
        else:
            out[i] = ["", out[i] * 2, ALPHABET[letters[i]]][ways[i] % 3]
    return "".join(out)


def case(text: str, chosen: np.ndarray, random: np.random.Generator) -> str:
    """Each chosen letter is large where it was small, and small where it was large."""
    return "".join(c.swapcase() if flip else c for c, flip in zip(text, chosen, strict=True))


def whitespace(text: str, chosen: np.ndarray, random: np.random.Generator) -> str:
    """Each chosen white space is two spaces, a tab, a line break, or none."""
    ways = random.integers(0, len(SPACES), len(text))
    return "".join(SPACES[w] if odd and c.isspace() else c for c, odd, w in zip(text, chosen, ways, strict=True))


PERTURBATIONS: dict[str, Callable[[str, np.ndarray, np.random.Generator], str]] = {
    "typos": typos,
    "case": case,
    "whitespace": whitespace,
}
