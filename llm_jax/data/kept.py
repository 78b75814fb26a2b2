"""Arrays that are computed once and kept in the cache."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from llm_jax.text import cache

log = logging.getLogger(__name__)

Arrays = Mapping[str, np.ndarray]


def arrays(room: str, name: str, make: Callable[[], Arrays], cache_dir: str | Path | None = None) -> Arrays:
    """Return arrays by name, memory-mapped from the cache; they are made and written first where it has none.

    Args:
        room: folder of the cache.
        name: says everything that the arrays depend on (`cache.key`).
        make: computes them.
        cache_dir: the cache's folder (default: `cache.folder()`).
    """
    where = cache.folder(cache_dir) / room / name
    try:
        return _load(where)
    except (OSError, ValueError) as error:
        if where.exists():
            log.warning("cached %s are damaged and will be computed again: %s", room, error)
    made = make()
    cache.publish(where, lambda folder: _save(folder, made), replace=True)
    return made


def _load(where: Path) -> Arrays:
    names = (where / "names.txt").read_text().split()
    return {n: np.load(where / f"{n}.npy", mmap_mode="r", allow_pickle=False).view(np.ndarray) for n in names}


def _save(folder: Path, made: Arrays) -> None:
    for name, values in made.items():
        np.save(folder / f"{name}.npy", values, allow_pickle=False)
    (folder / "names.txt").write_text("\n".join(made))
