"""The loader: batches as a pure function of (seed, step), the same for any number of hosts."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from llm_jax.core.table import UserError
from llm_jax.data.features import Fields, Transform, raw_bytes
from llm_jax.data.order import contiguous, interleave, keys, permute, shares
from llm_jax.data.packing import Rows, place
from llm_jax.data.turns import Turns

SHUFFLE = 1 << 32  # + component: what the random numbers are for
BLOCK = 4096  # the order is computed for so many examples at a time


@dataclass(frozen=True)
class Loader:
    """Batches of packed rows from one corpus, or a mixture of several.

    Every batch has the same fields with the same shapes. `domain` int32 [B] says which component a row is from, where
    there are several; `bytes` is there if `token_bytes` is.

    Attributes:
        components: the packed corpora.
        weights: their shares of the examples, in any unit.
        batch_size: rows of the global batch, over all hosts.
        seed: chooses the order.
        token_bytes: int32 [V] raw bytes of each id, or None to leave out the field `bytes`.
        transform: what an objective makes of the fields, before their bytes are counted; None for text as it is.
        rounds: by which the components, clients then, take turns; None for the order of a mixture.
    """

    components: Sequence[Rows]
    weights: Sequence[float]
    batch_size: int
    seed: int = 0
    token_bytes: np.ndarray | None = None
    rounds: Turns | None = None
    transform: Transform | None = None
    _order: Callable[[int], tuple[np.ndarray, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self._contiguous and (len(self.components) > 1 or self.components[0].count < self.batch_size):
            raise UserError(
                f'data.packing="contiguous" gives each of data.batch_size={self.batch_size} rows a text of its own, '
                f"of one source; here are {len(self.components)} with {self.components[0].count} rows in the first. "
                "Take one source, and smaller batches or shorter rows"
            )
        parts, sizes = shares(self.weights), np.array([rows.count for rows in self.components])

        @lru_cache(maxsize=4)
        def compute(block: int) -> tuple[np.ndarray, ...]:
            n = block * BLOCK + np.arange(BLOCK)
            if self._contiguous:
                row, epoch, _ = contiguous(n, int(sizes[0]), self.batch_size)
                return np.zeros_like(row), row, epoch
            if self.rounds is not None:
                return self.rounds.order(n, self.batch_size, sizes, self.seed)
            return order(n, parts, sizes.tolist(), self.seed)

        object.__setattr__(self, "_order", compute)

    @property
    def examples_per_epoch(self) -> int:
        """Rows in all components together; components of a mixture come round by their weights, not together."""
        if self._contiguous:
            return self.components[0].count // self.batch_size * self.batch_size
        return sum(rows.count for rows in self.components)

    @property
    def _contiguous(self) -> bool:
        return any(rows.contiguous for rows in self.components)

    def batch(self, step: int) -> Fields:
        """Return the global batch of `step` (from 0)."""
        return self.local(step, 0, 1)

    def local(self, step: int, process_index: int, process_count: int) -> Fields:
        """Return the rows of the global batch that belong to one process of several: a contiguous slice.

        Raises:
            UserError: the batch does not divide by the number of processes.
        """
        size = self._share(self.batch_size, process_count)
        first = step * self.batch_size + process_index * size
        return self._assemble(np.arange(first, first + size), *self._examples(first, first + size))

    def once(
        self,
        batch_size: int,
        process_index: int = 0,
        process_count: int = 1,
        limit: int | None = None,
        runs: bool = False,
    ) -> Iterator[Fields]:
        """Yield every row exactly once, in order, always with `weights`; the last batch is padded with weight 0.

        Args:
            batch_size: rows of the global batch.
            process_index: which slice of each batch to yield,
            process_count: of how many; all processes see the same number of batches.
            limit: stop after so many batches.
            runs: deal the rows to those of a batch in equal runs, so that each goes on in the next batch; the last runs
                may be shorter, or empty.
        """
        size = self._share(batch_size, process_count)
        ends = np.cumsum([rows.count for rows in self.components])
        steps = -(-int(ends[-1]) // batch_size)
        own = process_index * size + np.arange(size)
        for step in range(steps)[:limit]:
            n = own * steps + step if runs else step * batch_size + own
            real = np.minimum(n, ends[-1] - 1)
            component = np.searchsorted(ends, real, side="right")
            row = real - np.concatenate([[0], ends])[component]
            yield self._assemble(real, component, row, np.zeros_like(row), n < ends[-1])

    def prefetch(
        self, start_step: int = 0, process_index: int = 0, process_count: int = 1, depth: int = 2
    ) -> Iterator[Fields]:
        """Yield the batches from `start_step` on, made up to `depth` ahead by a thread; depth 0 needs no thread.

        The thread's error is raised here; it ends when the iterator is closed or dropped.
        """
        steps = iter(range(start_step, 1 << 62))
        batches = (self.local(step, process_index, process_count) for step in steps)
        return ahead(batches, depth) if depth else batches

    def _share(self, batch_size: int, process_count: int) -> int:
        if batch_size % process_count:
            raise UserError(f"data.batch_size={batch_size} does not divide by {process_count} processes")
        return batch_size // process_count

    def _examples(self, start: int, stop: int) -> list[np.ndarray]:
        """Return (component, row, epoch), and in rounds which count, of examples start to stop."""
        blocks = range(start // BLOCK, (stop - 1) // BLOCK + 1)
        found = [[part[max(0, start - b * BLOCK) : stop - b * BLOCK] for part in self._order(b)] for b in blocks]
        return found[0] if len(found) == 1 else [np.concatenate(parts) for parts in zip(*found, strict=True)]

    def _assemble(
        self,
        numbers: np.ndarray,
        component: np.ndarray,
        row: np.ndarray,
        epoch: np.ndarray,
        weighted: np.ndarray | None = None,
    ) -> Fields:
        """Return the batch of these rows; `weighted` bool [B] sets the weights of the others to 0."""
        if len(self.components) == 1:
            fields = self.components[0].gather(row, epoch)
        else:
            fields = {}
            for c in np.unique(component):
                at = np.flatnonzero(component == c)
                place(fields, at, self.components[c].gather(row[at], epoch[at]), len(row))
            fields["domain"] = component.astype(np.int32)
        if weighted is not None:
            weights = fields.get("weights", np.ones(fields["tokens"].shape, np.float32))
            fields["weights"] = weights * weighted[:, None].astype(np.float32)
            if "segments" in fields:
                fields["segments"] = fields["segments"] * weighted[:, None].astype(np.int32)
        if self._contiguous:
            _, _, step = contiguous(numbers, self.components[0].count, self.batch_size)
            length = fields["tokens"].shape[1]
            fields["positions"] = (step[:, None] * length + np.arange(length)).astype(np.int32)
        if self.transform is not None:
            fields = self.transform(fields, numbers)
        if self.token_bytes is not None:
            fields["bytes"] = raw_bytes(fields, self.token_bytes)
        return fields


def order(n: np.ndarray, parts: Sequence[int], sizes: Sequence[int], seed: int) -> tuple[np.ndarray, ...]:
    """Return (component, row, epoch), int64 [n], of examples n: each component goes through its rows epoch by epoch.

    Within an epoch every row of a component comes exactly once, in an order that (seed, component, epoch) chooses.
    """
    component, index = interleave(n, parts)
    row, epoch = np.empty_like(n), np.empty_like(n)
    for c, size in enumerate(sizes):
        at = np.flatnonzero(component == c)
        epoch[at] = index[at] // size
        row[at] = permute(index[at] % size, size, keys(seed, SHUFFLE + c, epoch[at]))
    return component, row, epoch


def ahead(items: Iterator[Fields], depth: int) -> Iterator[Fields]:
    """Yield `items`, made up to `depth` ahead by a thread; its error is raised here."""
    ready: queue.Queue = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: object) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:  # handed over, not swallowed
            put(error)

    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join(timeout=5.0)
