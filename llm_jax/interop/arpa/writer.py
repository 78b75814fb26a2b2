"""A counted model as an ARPA file: its orders with whole probabilities, and their lines."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llm_jax.core.table import UserError
from llm_jax.interop.arpa import MARKERS, NEVER, Order, keys
from llm_jax.models.classical.tables import unpack


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
