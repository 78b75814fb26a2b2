"""An ARPA file as a model that backs off: its lines, what is wrong with them, and the tokenizer of its words.

What is legal is what KenLM reads: words between spaces and tabs (no other white space parts them), orders without any
n-gram, a weight of 0 in the last order, no <unk>.
"""

import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llm_jax.core.table import UserError
from llm_jax.interop.arpa import MARKERS, NEVER, Order, keys
from llm_jax.interop.safetensors import Info
from llm_jax.interop.source import Source, beside
from llm_jax.models.classical.backoff import arrays
from llm_jax.text import tokenizers
from llm_jax.text.base import Tokenizer

LN10 = np.log(10)
UNKNOWN = ("<unk>", "<UNK>")  # how files name the word that stands for all others
SPACES = " \t\r\n"
HEADER = re.compile(rf"ngram[{SPACES}]+([0-9]+)[{SPACES}]*=[{SPACES}]*([0-9]+)")


class File(NamedTuple):
    """What an ARPA file holds: its words, whose places are their ids in `orders`; natural logarithms are not taken."""

    words: list[str]
    orders: list[Order]


def read(path: Path) -> File:
    """Return the n-grams of a file; those of words that are no unigrams, or come twice, are refused.

    Raises:
        UserError: the file is none, or not whole; the message names the line.
    """
    with path.open(encoding="utf-8-sig", errors="strict") as text:
        lines = _Lines(path, text)
        try:
            return _read(lines)
        except UnicodeDecodeError as error:
            raise lines.wrong(f"what follows is no UTF-8, convert it, such as with iconv: {error}") from None


class _Lines:
    """The lines of a file that hold something, and where they stand."""

    def __init__(self, path: Path, text: Iterable[str]):
        self._path, self._lines, self.number = path, enumerate(text, 1), 0

    def next(self) -> str:
        for number, line in self._lines:
            self.number = number
            if found := line.strip(SPACES):
                return found
        raise self.wrong("the file ends before \\end\\")

    def wrong(self, why: str) -> UserError:
        return UserError(f"{self._path}:{self.number}: {why}")


def _read(lines: _Lines) -> File:
    while lines.next() != "\\data\\":  # a comment
        pass
    sizes: list[int] = []
    while (line := lines.next()).startswith("ngram"):
        told = HEADER.fullmatch(line)
        if told is None or int(told[1]) != len(sizes) + 1:
            raise lines.wrong(f"{line!r} should be the number of n-grams of order {len(sizes) + 1}")
        sizes.append(int(told[2]))
    if not sizes or not sizes[0]:
        raise lines.wrong("there are no words; a line such as 'ngram 1=1000' should follow \\data\\")
    ids: dict[str, int] = {}
    found = []
    for order, size in enumerate(sizes, 1):
        if line != f"\\{order}-grams:":
            raise lines.wrong(f"{line!r} should be '\\{order}-grams:', after {size} n-grams of the order before")
        found.append(_order(lines, order, size, len(sizes), ids))
        line = lines.next()
    if line != "\\end\\":
        raise lines.wrong(f"{line!r} should be '\\end\\', after {sizes[-1]} n-grams of the last order")
    return File(list(ids), found)


def _order(lines: _Lines, order: int, size: int, last: int, ids: dict[str, int]) -> Order:
    """Read the n-grams of one order; those of order 1 give each word its id."""
    tokens: list[list[int]] = []
    log_p, backoff = [], []
    for _ in range(size):
        cells = re.split(f"[{SPACES}]+", lines.next())
        if len(cells) not in (order + 1, order + 2):
            raise lines.wrong(
                f"{' '.join(cells)!r} should be log10 p, {order} words and, below the last order, a weight"
            )
        try:
            p, weight = (float(cell) for cell in (cells[0], *cells[order + 1 :], "0")[:2])
        except ValueError:
            raise lines.wrong(f"{' '.join(cells)!r} has what is no number for log10 p or the weight") from None
        if not p <= 0 or not weight < np.inf or (order == last and weight):
            raise lines.wrong(
                f"{' '.join(cells)!r}: log10 p should be at most 0, and the weight finite, of the last order 0 or none"
            )
        words = cells[1 : order + 1]
        if order == 1 and ids.setdefault(words[0], len(ids)) != len(tokens):
            raise lines.wrong(f"the word {words[0]!r} comes twice")
        try:
            tokens.append([ids[word] for word in words])
        except KeyError as error:
            raise lines.wrong(f"the word {error.args[0]!r} is no unigram of the file") from None
        log_p.append(max(p, NEVER))
        backoff.append(max(weight, NEVER))
    grams = np.array(tokens, np.int32).reshape(-1, order)
    if len(np.unique(keys(grams))) != size:
        raise lines.wrong(f"an n-gram of order {order} above comes twice")
    return Order(grams, np.array(log_p), np.array(backoff))


class Held(NamedTuple):
    """Arrays in memory, as a file's."""

    arrays: Mapping[str, np.ndarray]

    @property
    def infos(self) -> Mapping[str, Info]:
        """Shapes and dtypes."""
        return {name: Info(a.shape, a.dtype) for name, a in self.arrays.items()}

    def read(self, name: str) -> np.ndarray:
        """Return one."""
        return self.arrays[name]


def source(path: Path) -> Source:
    """Return the model in an ARPA file.

    Where its words are the ids 0, 1, …, as `write` makes them, ids stay what they are, and the tokenizer is the one
    beside the file, if any; else words are what stands between spaces.
    """
    words, orders = read(path)
    if not any(word in UNKNOWN for word in words):
        words, orders = [*words, UNKNOWN[0]], [_with_unknown(orders[0]), *orders[1:]]
    named = [word for word in words if word not in MARKERS]
    if named and named == [str(i) for i in range(len(named))]:
        tokenizer = beside(path.parent)
        ids = np.array([int(word) if word not in MARKERS else -1 for word in words])
        orders = [_without_markers(part, ids) for part in orders]
    else:
        named, tokenizer = words, _of_words(words)
    last = len(orders)
    tables = {
        f"{n}/{name}": array
        for n, part in enumerate(orders, 1)
        for name, array in arrays(
            len(named), part.tokens, part.log_p * LN10, part.backoff * LN10 if n < last else None
        ).items()
    }  # fmt: skip
    config = {"vocab_size": len(named), "sizes": [len(tables[f"{n}/grams"]) for n in range(1, last + 1)]}
    return Source(path, "arpa", config, Held(tables), tokenizer, ready="backoff")


def _with_unknown(part: Order) -> Order:
    """Return the unigrams of a file of known words alone with one more, which is never said."""
    tokens = np.append(part.tokens, np.array([[len(part.tokens)]], np.int32), axis=0)
    return Order(tokens, np.append(part.log_p, NEVER), np.append(part.backoff, 0.0))


def _without_markers(part: Order, ids: np.ndarray) -> Order:
    tokens = ids[part.tokens]
    kept = (tokens >= 0).all(1)
    return Order(tokens[kept].astype(np.int32), part.log_p[kept], part.backoff[kept])


def _of_words(words: list[str]) -> Tokenizer:
    """Return the tokenizer of words between spaces; a text begins with <s> and ends with </s>, if they are words."""
    from tokenizers import Regex, models, pre_tokenizers, processors
    from tokenizers import Tokenizer as Engine

    ids = {word: i for i, word in enumerate(words)}
    engine = Engine(models.WordLevel(ids, unk_token=next(word for word in UNKNOWN if word in ids)))
    engine.pre_tokenizer = pre_tokenizers.Split(Regex(f"[{SPACES}]+"), "removed")
    engine.add_special_tokens([word for word in ("<s>", "</s>") if word in ids])
    begin, end = ((word if word in ids else None) for word in ("<s>", "</s>"))
    if begin:
        engine.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, ids[begin])]
        )
    with tempfile.TemporaryDirectory() as folder:
        engine.save(f"{folder}/tokenizer.json")
        return tokenizers.build("huggingface", {"path": f"{folder}/tokenizer.json", "bos": begin, "eos": end})
