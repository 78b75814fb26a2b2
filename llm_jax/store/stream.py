"""Arrays to disk one by one: each is written and digested while the next is made, and then let go.

orbax wants a whole tree at once. It gets one of stand-ins, and a handler that fills their places as the arrays come.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath

from llm_jax.core.table import UserError
from llm_jax.store import digests
from llm_jax.store.arrays import name_of
from llm_jax.store.manifest import Leaf

Leaves = Iterable[tuple[str, np.ndarray]]


class StandIn:
    """The place of an array that has not come yet."""


def write(directory: epath.Path, forms: Mapping[str, Leaf], leaves: Leaves) -> dict[str, int]:
    """Write arrays as `arrays.read` reads them, and return the digest of each. Two are held at a time, at most.

    Args:
        directory: is made.
        forms: path -> shape and dtype of each.
        leaves: (path, array), in any order, each path once.

    Raises:
        UserError: the disk refuses. Whatever `leaves` raises passes as it is.
        ValueError: they are not those of `forms`.
    """
    import orbax.checkpoint as ocp

    sums = dict.fromkeys(forms, 0)
    failed: list[Exception] = []
    coming = _checked(leaves, forms, failed)
    full = {name_of(path): StandIn() for path, form in forms.items() if 0 not in form.shape}
    registry = ocp.type_handlers.create_type_handler_registry((StandIn, _filling(coming, sums)))
    try:
        with _in_silence():
            handler = ocp.PyTreeCheckpointHandler(use_compression=False, type_handler_registry=registry)
            with ocp.Checkpointer(handler) as checkpointer:
                checkpointer.save(directory, args=ocp.args.PyTreeSave(full))
    except Exception as error:
        if failed:
            raise failed[0] from None
        raise UserError(f"the arrays could not be saved: {error}") from error
    return sums


def _filling(leaves: Leaves, sums: dict[str, int]) -> Any:
    """Return orbax's handler of stand-ins: it writes `leaves` in their places and fills `sums`."""
    import orbax.checkpoint as ocp

    class Filling(ocp.type_handlers.NumpyHandler):
        def store(self, path: str, leaf: np.ndarray, info: Any, args: Any) -> None:
            written = asyncio.run(super().serialize([leaf], [info], [args]))  # by orbax's own threads
            sums[path] = digests.digest(digests.whole(leaf))
            for writing in written:
                writing.result()

        async def serialize(self, values: Any, infos: Any, args: Any = None) -> list[Any]:
            """Return nothing to wait for: all is written."""
            places = {info.name: (info, arg) for info, arg in zip(infos, args, strict=True)}
            earlier: Future[None] | None = None
            with ThreadPoolExecutor(1) as pool:
                for path, leaf in leaves:
                    job = pool.submit(self.store, path, leaf, *places[name_of(path)])
                    del leaf
                    if earlier is not None:
                        earlier.result()
                    earlier = job
                if earlier is not None:
                    earlier.result()
            return []

    return Filling(deepcopy_host_arrays=False)


def _checked(leaves: Leaves, forms: Mapping[str, Leaf], failed: list[Exception]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the leaves that have elements; what goes wrong in making them, or with them, is put into `failed` too."""
    missing = dict(forms)
    try:
        for path, leaf in leaves:
            form = missing.pop(path, None)
            if form is None or (form.shape, form.dtype) != (leaf.shape, leaf.dtype.name):
                raise ValueError(f"{path} came as {leaf.dtype}{list(leaf.shape)}; wanted was {form}")
            if leaf.size:
                yield path, leaf
            del leaf  # before the next one is made
        if missing:
            raise ValueError(f"{sorted(missing)} did not come")
    except Exception as error:
        failed.append(error)
        raise


@contextlib.contextmanager
def _in_silence() -> Iterator[None]:
    """Keep orbax from logging what it raises, and that it has no handler of jax arrays."""

    def never(record: logging.LogRecord) -> bool:
        return False

    log = logging.getLogger("absl")
    log.addFilter(never)
    try:
        yield
    finally:
        log.removeFilter(never)
