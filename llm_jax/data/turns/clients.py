"""Clients: a corpus split by whose documents they are, and rounds that each take some of them.

A round's clients, and what each learns from, are a pure function of (seed, round): McMahan et al. 2017,
arXiv:1602.05629.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llm_jax.core.table import UserError
from llm_jax.data.order import keys, permute
from llm_jax.data.turns import Named
from llm_jax.text import cache
from llm_jax.text.shards import Shard

SAMPLE, ROWS = 1 << 48, (1 << 48) + 1  # + client: what the random numbers are for


@dataclass(frozen=True)
class Rounds:
    """How rounds are made.

    Attributes:
        sample: clients of a round, chosen without replacement; share i of a batch's rows is of the i-th.
        steps: batches of a round.
        count: so many clients, by the hash of each document; or instead
        pattern: a regular expression, which matches the client's name in a document's.
    """

    sample: int
    steps: int
    count: int | None = None
    pattern: str | None = None

    def order(self, n: np.ndarray, batch_size: int, sizes: np.ndarray, seed: int) -> tuple[np.ndarray, ...]:
        """Return (client, row, epoch, counts) of examples n, int64 [n] and bool [n].

        Within a round a client goes once through its rows, in an order of that round; what it lacks does not count.
        """
        share = batch_size // self.sample
        step, place = n // batch_size, n % batch_size
        round_, index = step // self.steps, step % self.steps * share + place % share
        client = permute(place // share, len(sizes), keys(seed, SAMPLE, round_))
        row = np.empty_like(n)
        for c in np.unique(client):
            at = np.flatnonzero(client == c)
            row[at] = permute(index[at] % sizes[c], int(sizes[c]), keys(seed, ROWS + int(c), round_[at]))
        return client, row, round_, index < sizes[client]

    def clients(
        self, shards: Sequence[Shard], documents: Named | None, cache_dir: str | Path | None = None
    ) -> list[Shard]:
        """Return a client's documents each, in the order of the clients' names.

        Raises:
            UserError: a document without a client, token shards that have no names, fewer clients than a round takes.
        """
        if len(shards) != 1:
            raise UserError(f"clients come from one token shard, and the source has {len(shards)}; join them")
        shard = shards[0]
        if self.pattern is None:
            who = shard.documents["hash"] % np.uint64(self.count or 1)
        else:
            who = np.array(_matches(self.pattern, documents, cache_dir))
        names, which = np.unique(who, return_inverse=True)
        if len(names) < self.sample:
            raise UserError(
                f"local.workers={self.sample} clients of a round are more than the {len(names)} of the data; "
                f"try {len(names)}"
            )
        return [part(shard, np.flatnonzero(which == i)) for i in range(len(names))]


def _matches(pattern: str, documents: Named | None, cache_dir: str | Path | None) -> list[str]:
    """Return what the pattern matches in the name of each document."""
    if documents is None:
        raise UserError("data.client_pattern needs names of documents, which token shards have not; set data.clients")
    found = [(name, re.search(pattern, name)) for name in _names(documents, cache_dir)]
    lost = next((name for name, match in found if match is None), None)
    if lost is not None:
        raise UserError(f"data.client_pattern={pattern!r} matches nothing in the document's name {lost!r}")
    return [match[0] for _, match in found if match]


def _names(documents: Named, cache_dir: str | Path | None) -> list[str]:
    """Return the names of documents; they are read once and kept."""
    where = cache.folder(cache_dir) / "names" / documents.fingerprint
    if not where.exists():
        text = json.dumps([d.name for d in documents])
        cache.publish(where, lambda folder: (folder / "names.json").write_text(text))
    return list(json.loads((where / "names.json").read_text()))


def part(shard: Shard, chosen: np.ndarray) -> Shard:
    """Return the documents `chosen` of a shard, by number, as a shard in memory."""
    ends = shard.documents["offset"] + shard.documents["tokens"]
    own = int(shard.documents["offset"][1] - ends[0]) if len(ends) > 1 else int(shard.starts)  # a bos before each?
    rows = shard.documents[chosen].copy()
    first = shard.tokens[: int(shard.starts) - own]
    pieces = [shard.tokens[o - own : o + n] for o, n in zip(rows["offset"], rows["tokens"], strict=True)]
    rows["offset"] = len(first) + np.cumsum(own + rows["tokens"]) - rows["tokens"]
    fingerprint = cache.key("part", shard.fingerprint, chosen.tolist(), version=1)
    return Shard(np.concatenate([first, *pieces]), rows, {**shard.meta, "fingerprint": fingerprint})
