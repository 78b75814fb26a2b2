"""Packing: token shards as rows of one length.

"concatenate" cuts the stream of all documents into windows; "first_fit" puts whole documents side by side, with
segments that attention does not cross (Krell et al. 2021). Both give every target of a document its context from the
start token on, see `text.shards`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from llm_jax.core.table import UserError
from llm_jax.data import kept
from llm_jax.data.features import Fields, next_token
from llm_jax.data.kept import Arrays
from llm_jax.data.order import keys, permute
from llm_jax.text import cache
from llm_jax.text.shards import Shard

PACKINGS = {
    "concatenate": "llm_jax.data.packing:concatenate",
    "contiguous": "llm_jax.data.packing:contiguous",
    "first_fit": "llm_jax.data.packing:first_fit",
}
PHASE, ORDER = 1, 2  # what the random numbers are for


@dataclass(frozen=True)
class Rows:
    """The rows of a packed corpus.

    Attributes:
        count: rows in an epoch, the same in each.
        gather: (rows int64 [B] below `count`, epochs int64 [B]) -> fields [B,T].
        contiguous: whether each row goes on where the one before it ends, and training is to read them so.
    """

    count: int
    gather: Callable[[np.ndarray, np.ndarray], Fields]
    contiguous: bool = False


def join(corpora: Sequence[Rows]) -> Rows:
    """Return several packed corpora as one."""
    if len(corpora) == 1:
        return corpora[0]
    ends = np.cumsum([rows.count for rows in corpora])

    def gather(rows: np.ndarray, epochs: np.ndarray) -> Fields:
        which = np.searchsorted(ends, rows, side="right")
        fields: Fields = {}
        for c in np.unique(which):
            at = np.flatnonzero(which == c)
            place(fields, at, corpora[c].gather(rows[at] - (ends[c] - corpora[c].count), epochs[at]), len(rows))
        return fields

    return Rows(int(ends[-1]), gather)


def place(fields: Fields, at: np.ndarray, some: Fields, size: int) -> None:
    """Write the rows `some` at `at` into `fields` of `size` rows, which it makes where they are missing."""
    for name, values in some.items():
        fields.setdefault(name, np.empty((size, *values.shape[1:]), values.dtype))[at] = values


def concatenate(
    shard: Shard, seq_len: int, *, seed: int, evaluation: bool, pad_id: int = 0, cache_dir: str | Path | None = None
) -> Rows:
    """Cut the stream into windows of seq_len + 1 tokens that overlap by one.

    For training the cuts move with the epoch, by a phase below seq_len, and what is left over at both ends (together
    less than two windows) is dropped. For evaluation the phase is 0 and every token but the first is a target exactly
    once: the last row is padded, with weights 0.

    Raises:
        UserError: the shard holds less than one training window, or a single token.
    """
    targets = len(shard.tokens) - 1
    if targets < (1 if evaluation else seq_len):
        raise UserError(
            f"the data hold {targets + 1} tokens, fewer than one row of data.seq_len={seq_len} and its targets; "
            "shorten seq_len or give more text"
        )
    steps = np.arange(seq_len + 1)
    if evaluation:
        return Rows(
            -(-targets // seq_len), lambda rows, _: _padded(shard.tokens, rows[:, None] * seq_len + steps, pad_id)
        )
    count = max(1, (targets + 1 - seq_len) // seq_len)
    phases = min(seq_len, targets - count * seq_len + 1)

    @lru_cache(maxsize=64)
    def phase(epoch: int) -> int:
        return int(keys(seed, PHASE, np.array([epoch]))[0]) % phases

    def gather(rows: np.ndarray, epochs: np.ndarray) -> Fields:
        shift = np.array([phase(epoch) for epoch in epochs.tolist()])
        return next_token(shard.tokens[(shift + rows * seq_len)[:, None] + steps])

    return Rows(count, gather)


def contiguous(
    shard: Shard, seq_len: int, *, seed: int, evaluation: bool, pad_id: int = 0, cache_dir: str | Path | None = None
) -> Rows:
    """Cut the stream as `concatenate` does, in the same places every epoch, into rows that are read in their order.

    For a model that carries its state: row b of a batch goes on in row b of the next (`data.order.contiguous`).
    `positions` count from the beginning of each such text, so that 0 says where one begins.

    Raises:
        UserError: as `concatenate`.
    """
    whole = concatenate(shard, seq_len, seed=seed, evaluation=evaluation, pad_id=pad_id, cache_dir=cache_dir)
    if evaluation:
        return whole
    steps = np.arange(seq_len + 1)
    return Rows(whole.count, lambda rows, _: next_token(shard.tokens[rows[:, None] * seq_len + steps]), contiguous=True)


def _padded(tokens: np.ndarray, index: np.ndarray, pad_id: int) -> Fields:
    """Return the windows at `index` [B,T+1] with weights; beyond the end stands `pad_id` with weight 0."""
    inside = index < len(tokens)
    window = np.where(inside, tokens[np.minimum(index, len(tokens) - 1)], pad_id)
    return next_token(window) | {"weights": inside[:, 1:].astype(np.float32)}


def first_fit(
    shard: Shard, seq_len: int, *, seed: int, evaluation: bool, pad_id: int = 0, cache_dir: str | Path | None = None
) -> Rows:
    """Put documents into rows, each into the first row with room; longer ones are cut into pieces of seq_len.

    Adds segments (from 1; 0 is padding), positions (from 0 in each piece) and weights (0 at padding). A document's
    last token is only ever a target, so that no target belongs to another document. The packing is computed once for
    (shard, seq_len, seed) and kept in the cache; an epoch is a permutation of its rows.
    """
    name = cache.key("first_fit", shard.fingerprint, seq_len, seed, version=2)
    packed = kept.arrays("packings", name, lambda: pack(*pieces(shard, seq_len), seq_len, seed), cache_dir)
    return side_by_side(shard.tokens, packed, seq_len, pad_id)


def side_by_side(
    stream: np.ndarray, packed: Arrays, seq_len: int, pad_id: int = 0, taught: np.ndarray | None = None
) -> Rows:
    """Return the rows of a packing.

    Args:
        stream: the tokens [N] that its pieces are of.
        packed: the pieces, see `pack`.
        seq_len: T, the length of a row.
        pad_id: stands where there is no piece.
        taught: which tokens are learnt where they are targets, bool [N]; None: all.
    """

    def gather(rows: np.ndarray, epochs: np.ndarray) -> Fields:
        first, last = packed["rows"][rows], packed["rows"][rows + 1]
        segment = _ramps(last - first)
        piece = np.repeat(first, last - first) + segment
        lengths = packed["length"][piece]
        column = _ramps(lengths)
        source = np.repeat(packed["start"][piece], lengths) + column
        row = np.repeat(np.arange(len(rows)), last - first)
        target = np.repeat(row * seq_len + packed["column"][piece], lengths) + column

        def scatter(values: np.ndarray, fill: int = 0) -> np.ndarray:
            field = np.full(len(rows) * seq_len, fill, np.int32)
            field[target] = values
            return field.reshape(len(rows), seq_len)

        fields = {
            "tokens": scatter(stream[source], pad_id),
            "targets": scatter(stream[source + 1], pad_id),
            "segments": scatter(np.repeat(segment + 1, lengths)),
            "positions": scatter(column),
        }
        learnt = fields["segments"] > 0 if taught is None else scatter(taught[source + 1])
        return fields | {"weights": learnt.astype(np.float32)}

    return Rows(len(packed["rows"]) - 1, gather)


def _ramps(lengths: np.ndarray) -> np.ndarray:
    """Return 0, 1, … below each of the lengths, one after the other."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def pack(start: np.ndarray, length: np.ndarray, seq_len: int, seed: int) -> dict[str, np.ndarray]:
    """Return the packing of pieces, int64 [P] both: in the order of their rows.

    rows int64 [R+1]: where each row's pieces begin; start int64 [P]: index of a piece's first input token; length
    int64 [P]: its number of targets; column int64 [P]: where it stands in its row.
    """
    if not len(start):
        raise UserError("the data hold no document with a token to predict")
    n = np.arange(len(start))
    shuffled = permute(n, len(start), keys(seed, ORDER, np.zeros_like(n)))
    start, length = start[shuffled], length[shuffled]
    row = first_fit_rows(length, seq_len)
    by_row = np.argsort(row, kind="stable")
    start, length, row = start[by_row], length[by_row], row[by_row]
    rows = np.searchsorted(row, np.arange(row[-1] + 2))
    before = np.cumsum(length) - length
    return {"rows": rows, "start": start, "length": length, "column": before - before[rows[row]]}


def pieces(shard: Shard, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (start, length), int64 [P]: the first input token and the number of targets of each piece."""
    begin = shard.documents["offset"] - int(shard.starts)
    targets = shard.documents["tokens"] - 1 + int(shard.starts)
    count = -(-targets // seq_len)
    number = _ramps(count)
    return np.repeat(begin, count) + number * seq_len, np.minimum(seq_len, np.repeat(targets, count) - number * seq_len)


def first_fit_rows(lengths: np.ndarray, seq_len: int) -> np.ndarray:
    """Return int64 [P]: the row of each piece, the first with room for it, by a tree of the free room."""
    size = 1 << (len(lengths) - 1).bit_length()
    free = [seq_len] * (2 * size)
    rows = np.empty(len(lengths), np.int64)
    for i, need in enumerate(lengths.tolist()):
        node = 1
        while node < size:
            node *= 2
            if free[node] < need:
                node += 1
        rows[i] = node - size
        free[node] -= need
        while node > 1:
            node //= 2
            most = max(free[2 * node], free[2 * node + 1])
            if free[node] == most:
                break
            free[node] = most
    return rows
