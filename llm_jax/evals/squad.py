"""Answers beside right ones, as SQuAD's own program counts them (Rajpurkar et al. 2016, §6.1; 2018 for no answer)."""

import re
import string
from collections import Counter

ARTICLES = re.compile(r"\b(a|an|the)\b")
SIGNS = str.maketrans("", "", string.punctuation)


def words(answer: str) -> list[str]:
    """Return the words that count: in small letters, without signs (of ASCII), and then without articles."""
    return ARTICLES.sub(" ", answer.lower().translate(SIGNS)).split()


def exact(answer: str, right: str) -> float:
    """Return 1 where all words are the same, and 0 else."""
    return float(words(answer) == words(right))


def f1(answer: str, right: str) -> float:
    """Return the harmonic mean of precision and recall of the words, 0 to 1; no answer is right where there is none."""
    said, wanted = Counter(words(answer)), Counter(words(right))
    if not said or not wanted:
        return float(said == wanted)
    return 2 * (said & wanted).total() / (said.total() + wanted.total())
