"""How a checkpoint becomes part of a directory, and leaves it.

    STEP.tmp/arrays and digests -> fsync -> manifest.json -> fsync -> rename to STEP -> fsync

Object stores have no rename: there a step is written in place, and counts from the moment it has a manifest.
"""

import contextlib
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import replace

import jax
from etils import epath

from llm_jax.core.table import UserError
from llm_jax.store import digests, files, manifest, processes, retention
from llm_jax.store.manifest import CorruptCheckpointError, Manifest

log = logging.getLogger(__name__)
CORRUPT = "corrupt"


def steps(directory: epath.PathLike) -> list[int]:
    """Return the steps on disk, in order; none where the directory does not exist."""
    path = epath.Path(directory)
    if not path.exists():
        return []
    numbered = [p for p in path.iterdir() if p.name.isdecimal() and str(int(p.name)) == p.name]
    return sorted(int(p.name) for p in numbered if files.is_local(p) or (p / manifest.NAME).exists())


def metrics(directory: epath.Path) -> dict[int, dict[str, float]]:
    """Return {step: the metrics it was saved with} of the steps on disk; none for a step that cannot be read."""
    found: dict[int, dict[str, float]] = {}
    for step in steps(directory):
        found[step] = {}
        with contextlib.suppress(CorruptCheckpointError, UserError, OSError):
            found[step] = manifest.read(directory / str(step)).metrics
    return found


def prepare(directory: epath.Path, step: int) -> epath.Path:
    """Return the place where the step is put together, empty and made (by process 0)."""
    work = directory / (f"{step}{files.TEMPORARY}" if files.is_local(directory) else str(step))
    if jax.process_index() == 0:
        if work.exists():
            _discard(work)
        work.mkdir(parents=True)
    return work


def commit(work: epath.Path, head: Manifest, sums: dict[str, int]) -> None:
    """Make a step of what all processes wrote to `work`, replacing an older one of that number.

    Args:
        work: from `prepare`, with the arrays in it.
        head: the manifest without digests and files.
        sums: this process's part of each leaf's digest.
    """
    try:
        sums = _of_all_processes(work, sums)
        if jax.process_index() == 0:
            leaves = {path: replace(leaf, digest=sums[path]) for path, leaf in head.leaves.items()}
            if files.is_local(work):
                files.sync_tree(work)
            manifest.write(work, replace(head, leaves=leaves, files=files.sizes(work)))
            if files.is_local(work):
                final = work.parent / str(head.step)
                old = files.set_aside(final) if final.exists() else None
                os.rename(work, final)
                files.sync_directory(final.parent)
                if old is not None:
                    with contextlib.suppress(OSError):  # the next job's first save removes it
                        old.rmtree()
    finally:  # who fails lets the others go on
        processes.barrier(f"committed {work}")


def add_metrics(step: epath.Path, metrics: Mapping[str, float]) -> None:
    """Add to what a committed step was found to be worth; process 0 alone does so."""
    head = manifest.read(step)
    found = {name: float(value) for name, value in metrics.items()}
    manifest.write(step, replace(head, metrics={**head.metrics, **found}))


def make_room(directory: epath.Path, keep: retention.Keep) -> list[int]:
    """Remove the steps that need not stay and return those that are gone; one that cannot be removed is logged."""
    gone, found = [], metrics(directory)
    for step in sorted(found.keys() - retention.kept(found, keep)):
        try:
            _discard(directory / str(step))
            gone.append(step)
        except OSError as error:
            log.warning("the checkpoint of step %d could not be removed: %s", step, error)
    return gone


def quarantine(directory: epath.Path, step: int) -> epath.Path | None:
    """Move a damaged step to corrupt/, which nothing reads or deletes; return where it is, or None if it stays."""
    target = directory / CORRUPT / f"{step}.{time.time_ns()}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        (directory / str(step)).rename(target)
    except OSError as error:
        log.warning("the damaged step %d stays in %s: %s", step, directory, error)
        return None
    return target


def _discard(place: epath.Path) -> None:
    """Remove a step, or what was to become one, such that a kill on the way leaves nothing that counts as a step."""
    if files.is_local(place):
        place = files.set_aside(place)
    else:
        (place / manifest.NAME).unlink(missing_ok=True)
    place.rmtree()


def _of_all_processes(work: epath.Path, sums: dict[str, int]) -> dict[str, int]:
    """Return in process 0 the digests of whole leaves: partial ones meet in files, as no device may be used here."""
    if jax.process_count() == 1:
        return sums
    parts = [work / f"digests.{i}.json" for i in range(jax.process_count())]
    try:
        files.write_json(parts[jax.process_index()], sums)
    finally:
        processes.barrier(f"digests {work}")
    if jax.process_index() != 0:
        return sums
    merged = digests.merge(files.read_json(part) for part in parts)
    for part in parts:
        part.unlink()
    return merged
