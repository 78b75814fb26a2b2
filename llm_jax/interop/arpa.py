"""N-gram models as ARPA files, which KenLM, SRILM and others read and write; the words of ours are the ids of tokens.

An interpolated model is the same as one that backs off: of an n-gram that was seen stands its whole probability, and
of a context what it gives to the lower orders (Chen & Goodman 1999, §2.8).
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llm_jax.core.table import UserError
from llm_jax.interop.safetensors import Info
from llm_jax.interop.source import Source, beside
from llm_jax.models.classical.backoff import arrays
from llm_jax.models.classical.tables import unpack
from llm_jax.text import tokenizers
from llm_jax.text.base import Tokenizer

NEVER = -99.0  # log10 of a probability of zero
LN10 = np.log(10)
MARKERS = ("<s>", "</s>", "<unk>")


class Order(NamedTuple):
    """The n-grams of one order in their order, log10 of their probabilities, and of what each gives as a context."""

    tokens: np.ndarray
    log_p: np.ndarray
    backoff: np.ndarray


def orders(model: Any, ready: Mapping[str, Any]) -> list[Order]:
    """Return the orders of a counted model, from 1 on; `ready` are its parameters with all that follows from them.

    N-grams that reach over the beginning of a row are left out: no other program has a word for it.

    Raises:
        UserError: the model has no probabilities to back off from.
    """
    if model.order == 0 or model.smoothing != "kneser_ney":
        raise UserError("an ARPA file holds a Kneser-Ney model of order 1 or more; this one is not")
    parts = [_Part(model, order, ready["orders"][str(order)]) for order in range(1, model.order + 1)]
    found: list[Order] = []
    for order, part in enumerate(parts, 1):
        p = _probabilities(model, part, found)
        rows = np.flatnonzero(p > 0)
        backoff = np.ones(len(rows)) if order == model.order else parts[order].given(part.tokens[rows])
        found.append(Order(part.tokens[rows], np.log10(p[rows]), np.log10(backoff)))
    return found


class _Part:
    """One order as numpy arrays."""

    def __init__(self, model: Any, order: int, arrays: Mapping[str, Any]):
        size = int(np.count_nonzero(np.asarray(arrays["counts"])))
        tokens = np.asarray(unpack(arrays["grams"][:size], order, model.vocab_size))
        inside = (tokens < model.vocab_size).all(1)
        self.order = order
        self.tokens, self.counts = tokens[inside], np.asarray(arrays["counts"])[:size][inside]
        self.sums = np.asarray(arrays["sums"], np.int64)
        self.discounts = np.concatenate([[0.0], np.asarray(arrays["discounts"], np.float64)])
        self._keys = keys(tokens[:, :-1])

    def span(self, contexts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The sums over the n-grams that begin with each context: of counts, and what discounting frees."""
        wanted = keys(contexts)
        low, high = (np.searchsorted(self._keys, wanted, side=side) for side in ("left", "right"))
        sums = self.sums[high] - self.sums[low]
        return sums[:, 0].astype(np.float64), sums[:, 1:] @ self.discounts[1:]

    def given(self, contexts: np.ndarray) -> np.ndarray:
        """The share that each context gives to the lower order; all, where none of its n-grams was seen."""
        total, freed = self.span(contexts)
        return np.where(total > 0, freed / np.maximum(total, 1), 1.0)


def keys(tokens: np.ndarray) -> np.ndarray:
    """Return one byte string a row, in the same order as the rows."""
    wide = np.ascontiguousarray(tokens.astype(">u4"))
    return wide.view(f"S{4 * tokens.shape[1]}")[:, 0] if tokens.shape[1] else np.zeros(len(tokens), "S1")


def _probabilities(model: Any, part: _Part, found: list[Order]) -> np.ndarray:
    """p of every n-gram of one order, or of every id."""
    if part.order == 1:
        counts = np.zeros(model.vocab_size)
        counts[part.tokens[:, 0]] = np.maximum(part.counts - part.discounts[np.minimum(part.counts, 3)], 0)
        part.tokens = np.arange(model.vocab_size, dtype=np.int32)[:, None]
        total, freed = part.span(np.zeros((1, 0), np.int32))
        return (counts + freed[0] / model.vocab_size) / total[0]
    total, freed = part.span(part.tokens[:, :-1])
    kept = np.maximum(part.counts - part.discounts[np.minimum(part.counts, 3)], 0)
    return np.where(kept > 0, (kept + freed * 10 ** looked_up(found, part.tokens[:, 1:])) / total, 0.0)


def looked_up(found: list[Order], tokens: np.ndarray) -> np.ndarray:
    """Return log10 p of the last token of each row given those before it, as a reader of the file computes it."""
    result, weight = np.full(len(tokens), np.nan), np.zeros(len(tokens))
    for order in range(tokens.shape[1], 0, -1):
        part, grams = found[order - 1], tokens[:, tokens.shape[1] - order :]
        at, seen = _find(part.tokens, grams)
        new = seen & np.isnan(result)
        result[new] = weight[new] + part.log_p[at[new]]
        if order > 1:
            context, known = _find(found[order - 2].tokens, grams[:, :-1])
            add = known & np.isnan(result)
            weight[add] += found[order - 2].backoff[context[add]]
    return result


def _find(table: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known, wanted = keys(table), keys(rows)
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return at, known[at] == wanted


def lines(found: list[Order]) -> Iterator[str]:
    """Yield the lines of the file."""
    yield "\\data\\"
    for order, part in enumerate(found, 1):
        yield f"ngram {order}={len(part.tokens) + 3 * (order == 1)}"
    for order, part in enumerate(found, 1):
        yield ""
        yield f"\\{order}-grams:"
        if order == 1:
            yield from (f"{NEVER:g}\t{word}\t0" for word in MARKERS)
        last = order == len(found)
        for tokens, log_p, backoff in zip(
            part.tokens.tolist(), part.log_p.tolist(), part.backoff.tolist(), strict=True
        ):
            words = " ".join(map(str, tokens))
            yield f"{log_p:.7f}\t{words}" if last else f"{log_p:.7f}\t{words}\t{backoff:.7f}"
    yield ""
    yield "\\end\\"


def write(path: Path, found: list[Order]) -> None:
    """Write the file."""
    with path.open("w", encoding="ascii") as out:
        for line in lines(found):
            out.write(line + "\n")


class File(NamedTuple):
    """What an ARPA file holds: its words, whose places are their ids in `orders`; natural logarithms are not taken."""

    words: list[str]
    orders: list[Order]


def read(path: Path) -> File:
    """Return the n-grams of a file; those of words that are no unigrams, or come twice, are refused.

    Raises:
        UserError: the file is none, or not whole; the message names the line.
    """
    with path.open(encoding="utf-8", errors="strict") as text:
        lines = _Lines(path, text)
        try:
            return _read(lines)
        except UnicodeDecodeError as error:
            raise lines.wrong(f"it is no UTF-8: {error}") from None


class _Lines:
    """The lines of a file that hold something, and where they stand."""

    def __init__(self, path: Path, text: Iterable[str]):
        self._path, self._lines, self.number = path, enumerate(text, 1), 0

    def next(self) -> str:
        for number, line in self._lines:
            self.number = number
            if line.strip():
                return line.strip()
        raise self.wrong("the file ends before \\end\\")

    def wrong(self, why: str) -> UserError:
        return UserError(f"{self._path}:{self.number}: {why}")


def _read(lines: _Lines) -> File:
    while lines.next() != "\\data\\":  # a comment
        pass
    sizes: list[int] = []
    while (line := lines.next()).startswith("ngram "):
        name, _, number = line.removeprefix("ngram ").partition("=")
        if name.strip() != str(len(sizes) + 1) or not number.strip().isdecimal():
            raise lines.wrong(f"{line!r} should be the number of n-grams of order {len(sizes) + 1}")
        sizes.append(int(number))
    if not sizes:
        raise lines.wrong("no order is named; a line such as 'ngram 1=1000' should follow \\data\\")
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
        cells = lines.next().split()
        if len(cells) not in (order + 1, order + 2 - (order == last)):
            raise lines.wrong(
                f"{' '.join(cells)!r} should be log10 p, {order} words and, below the last order, a weight"
            )
        try:
            values = [float(cell) for cell in (cells[0], *cells[order + 1 :])]
        except ValueError:
            raise lines.wrong(f"{' '.join(cells)!r} has what is no number for log10 p or the weight") from None
        words = cells[1 : order + 1]
        if order == 1 and ids.setdefault(words[0], len(ids)) != len(tokens):
            raise lines.wrong(f"the word {words[0]!r} comes twice")
        try:
            tokens.append([ids[word] for word in words])
        except KeyError as error:
            raise lines.wrong(f"the word {error.args[0]!r} is no unigram of the file") from None
        log_p.append(values[0])
        backoff.append(values[1] if len(values) > 1 else 0.0)
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
    named = [word for word in words if word not in MARKERS]
    if named == [str(i) for i in range(len(named))]:
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
    config = {"vocab_size": len(named), "sizes": [len(part.tokens) for part in orders]}
    return Source(path, "arpa", config, Held(tables), tokenizer, ready="backoff")


def _without_markers(part: Order, ids: np.ndarray) -> Order:
    tokens = ids[part.tokens]
    kept = (tokens >= 0).all(1)
    return Order(tokens[kept].astype(np.int32), part.log_p[kept], part.backoff[kept])


def _of_words(words: list[str]) -> Tokenizer:
    """Return the tokenizer of words between spaces; a text begins with <s> and ends with </s>, if they are words."""
    from tokenizers import Tokenizer as Engine
    from tokenizers import models, pre_tokenizers, processors

    ids = {word: i for i, word in enumerate(words)}
    engine = Engine(models.WordLevel(ids, unk_token="<unk>"))
    engine.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    engine.add_special_tokens([word for word in ("<s>", "</s>") if word in ids])
    begin, end = ((word if word in ids else None) for word in ("<s>", "</s>"))
    if begin:
        engine.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, ids[begin])]
        )
    with tempfile.TemporaryDirectory() as folder:
        engine.save(f"{folder}/tokenizer.json")
        return tokenizers.build("huggingface", {"path": f"{folder}/tokenizer.json", "bos": begin, "eos": end})
