"""Sorted tables of distinct n-grams in arrays of fixed size: merged by sorting, found by halving.

An n-gram is packed into words of 32 bits, the first token in the highest bits, so that n-grams of one context are
neighbours. Unused rows are all ones, which no n-gram is, and stand at the end.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt

UNUSED = np.uint32(0xFFFFFFFF)
CHUNK = 64  # n-grams of a context that are read at a time
Packed = UInt[Array, "C W"]


class Table(NamedTuple):
    """Distinct n-grams in order, how often each was counted, and how many there are."""

    grams: Packed
    counts: Int[Array, "C"]
    distinct: Int[Array, ""]


def per_word(vocab_size: int) -> int:
    """Tokens that fit into a word: of ids up to vocab_size + 1, that which stands for none and one beyond."""
    return 32 // max(1, math.ceil(math.log2(vocab_size + 2)))


def width(order: int, vocab_size: int) -> int:
    """Words of a packed n-gram."""
    return max(1, math.ceil(order / per_word(vocab_size)))


def pack(tokens: Int[Array, "*M N"], vocab_size: int) -> UInt[Array, "*M W"]:
    """Return n-grams as words."""
    each, order = per_word(vocab_size), tokens.shape[-1]
    bits = 32 // each
    padded = jnp.pad(tokens, [(0, 0)] * (tokens.ndim - 1) + [(0, width(order, vocab_size) * each - order)])
    slots = padded.astype(jnp.uint32).reshape(*tokens.shape[:-1], -1, each)
    shifts = jnp.arange(each - 1, -1, -1, dtype=jnp.uint32) * bits
    return (slots << shifts).sum(-1, dtype=jnp.uint32)


def unpack(words: UInt[Array, "*M W"], order: int, vocab_size: int) -> Int[Array, "*M N"]:
    """Return the tokens of packed n-grams."""
    each = per_word(vocab_size)
    bits = 32 // each
    shifts = jnp.arange(each - 1, -1, -1, dtype=jnp.uint32) * bits
    slots = (words[..., None] >> shifts) & jnp.uint32((1 << bits) - 1)
    return slots.reshape(*words.shape[:-1], -1)[..., :order].astype(jnp.int32)


def empty(capacity: int, words: int) -> Table:
    """Return a table of nothing."""
    return Table(jnp.full((capacity, words), UNUSED, jnp.uint32), jnp.zeros(capacity, jnp.int32), jnp.int32(0))


def counted(grams: Packed, counts: Int[Array, "M"], capacity: int) -> Table:
    """Return the table of n-grams in any order, equal ones added up; those of count 0 are left out.

    `distinct` counts them all, even where more than `capacity` find no room.
    """
    given = jnp.where(counts[:, None] > 0, grams, UNUSED).T
    *columns, counts = jax.lax.sort((*given, counts), num_keys=len(given))
    used = counts > 0
    changed = jnp.stack([jnp.concatenate([jnp.ones(1, bool), c[1:] != c[:-1]]) for c in columns]).any(0) & used
    place = jnp.cumsum(changed) - 1
    row = jnp.where(used, place, capacity)
    table = empty(capacity, len(columns))
    first = jnp.where(changed, row, capacity)
    made = table.grams.at[first].set(jnp.stack(columns, axis=1), mode="drop")
    added = table.counts.at[row].add(counts, mode="drop")
    return Table(made, added, changed.sum(dtype=jnp.int32))


def shorter(table: Table, order: int, vocab_size: int, capacity: int) -> Table:
    """Return the table of the n-grams without their first token, each counted once a distinct first token.

    The continuation counts of Kneser & Ney 1995.
    """
    tokens = unpack(table.grams, order, vocab_size)[:, 1:]
    return counted(pack(tokens, vocab_size), (table.counts > 0).astype(jnp.int32), capacity)


def first_not_below(grams: Packed, wanted: UInt[Array, "M W"]) -> Int[Array, "M"]:
    """Return for each wanted n-gram the first row that is not below it."""

    def halve(_: int, span: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = span
        middle = (low + high) // 2
        below = _below(grams[jnp.minimum(middle, grams.shape[0] - 1)], wanted) & (low < high)
        return jnp.where(below, middle + 1, low), jnp.where(below | (low >= high), high, middle)

    low = jnp.zeros(wanted.shape[0], jnp.int32)
    steps = math.ceil(math.log2(grams.shape[0] + 1)) + 1
    return jax.lax.fori_loop(0, steps, halve, (low, jnp.full_like(low, grams.shape[0])))[0]


def _below(a: UInt[Array, "M W"], b: UInt[Array, "M W"]) -> Array:
    below = jnp.zeros(a.shape[0], bool)
    for column in range(a.shape[1] - 1, -1, -1):
        x, y = a[:, column], b[:, column]
        below = (x < y) | ((x == y) & below)
    return below


def span(grams: Packed, context: Int[Array, "M N-1"], vocab_size: int) -> tuple[Int[Array, "M"], Int[Array, "M"]]:
    """Return the rows, first and one after the last, of the n-grams that begin with each context."""
    ends = (jnp.full((*context.shape[:1], 1), last, jnp.int32) for last in (0, vocab_size + 1))
    low, high = (pack(jnp.concatenate([context, end], axis=1), vocab_size) for end in ends)
    return first_not_below(grams, low), first_not_below(grams, high)


def scattered(
    first: Int[Array, "M"], after: Int[Array, "M"], read: Callable[[Array], tuple[Array, Array]], into: Array
) -> Array:
    """Put the values of the rows `first` to `after` of a table at their last tokens, `CHUNK` rows at a time.

    Args:
        first: row of the first n-gram of each context.
        after: that after its last.
        read: rows -> (last tokens, values).
        into: [M,V], which the values replace where there is a row.
    """
    own = jnp.arange(first.shape[0])[:, None]

    def more(state: tuple[Array, Array]) -> Array:
        return jnp.any(first + state[0] < after)

    def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
        start, p = state
        at = first[:, None] + start + jnp.arange(CHUNK)
        inside = at < after[:, None]
        words, values = read(jnp.where(inside, at, 0))
        return start + CHUNK, p.at[own, jnp.where(inside, words, p.shape[1])].set(values, mode="drop")

    return jax.lax.while_loop(more, step, (jnp.int32(0), into))[1]
