"""One checkpoint, read and verified: the only way from a step on disk to arrays.

The order is from cheap to dear: manifest, the tree asked for, file sizes, arrays, digests.
"""

import contextlib
import errno
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from llm_jax.core import tree
from llm_jax.core.table import UserError, nearest
from llm_jax.store import arrays, digests, files, manifest, processes
from llm_jax.store.manifest import CorruptCheckpointError, Leaf, Manifest

SHOWN = 5  # differences in an error
MOST_PACKED = 1000  # bytes of arrays a byte of file: arrays under 1 KiB are stored compressed, among the names
TROUBLE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT)  # of this machine or its network
NOT_CORRUPT = ("PERMISSION_DENIED", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED")  # tensorstore's own codes


def read_step(directory: epath.Path, abstract: Any = None, part: str = "") -> tuple[Any, Manifest]:
    """Return (tree, manifest) of the checkpoint in `directory`; arguments and errors as in `Checkpoints.restore`."""
    with as_corrupt(directory), processes.together():
        saved = manifest.read(directory)
    inside = _below(part, saved.leaves)
    if not inside:
        tops = {path.split("/")[0] for path in saved.leaves}
        raise UserError(f"{directory} has no part {part!r}; it has {', '.join(sorted(tops))}{nearest(part, tops)}")
    names = [path.removeprefix(part).removeprefix("/") if part else path for path in inside]
    wanted = dict.fromkeys(names) if abstract is None else tree.flatten(abstract)
    if abstract is not None:
        _check_tree(arrays.described(wanted), dict(zip(names, inside.values(), strict=True)), directory)
    shardings = {path: getattr(wanted[name], "sharding", None) for name, path in zip(names, inside, strict=True)}
    with as_corrupt(directory), processes.together():
        _check_files(directory, saved)
        found = arrays.read(directory / arrays.FOLDER, inside, shardings)
    with as_corrupt(directory):
        _check_digests(found, saved)
    leaves = arrays.typed(found, {path: key["impl"] for path, key in saved.prng.items()})
    by_name = dict(zip(names, leaves.values(), strict=True))
    if abstract is None:
        return by_name.get("") if names == [""] else tree.unflatten(by_name), saved
    return jax.tree.unflatten(jax.tree.structure(abstract), [by_name[name] for name in wanted]), saved


@contextlib.contextmanager
def as_corrupt(directory: epath.Path) -> Iterator[None]:
    """Turn whatever a damaged file makes its reader raise into CorruptCheckpointError; let trouble of ours pass."""
    where = f"the checkpoint of step {directory.name} in {directory.parent}"
    try:
        yield
    except (UserError, MemoryError, PermissionError, jax.errors.JaxRuntimeError):
        raise
    except CorruptCheckpointError as error:
        raise CorruptCheckpointError(f"{where} is damaged: {error}") from error
    except Exception as error:
        if any(code in str(error) for code in NOT_CORRUPT) or getattr(error, "errno", None) in TROUBLE:
            raise
        reason = " ".join(str(error).split())[:300]
        raise CorruptCheckpointError(f"{where} cannot be read: {type(error).__name__}: {reason}") from error


def _below(part: str, leaves: Mapping[str, Leaf]) -> dict[str, Leaf]:
    return {path: leaf for path, leaf in leaves.items() if not part or f"{path}/".startswith(f"{part}/")}


def _check_tree(wanted: Mapping[str, Leaf], saved: Mapping[str, Leaf], directory: epath.Path) -> None:
    lines = [f"{path}: is not in the checkpoint" for path in wanted if path not in saved]
    lines += [f"{path}: is only in the checkpoint" for path in saved if path not in wanted]
    for path, ours, theirs in ((path, wanted[path], saved[path]) for path in wanted if path in saved):
        if ours.shape != theirs.shape:
            lines.append(f"{path}: shape {ours.shape} is wanted, {theirs.shape} was saved")
        if ours.dtype != theirs.dtype:
            lines.append(f"{path}: dtype {ours.dtype} is wanted, {theirs.dtype} was saved")
    if lines:
        more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        shown = "\n  ".join([*lines[:SHOWN], *more])
        raise UserError(f"{directory} is of another model or optimizer; use the config it was saved with:\n  {shown}")


def _check_files(directory: epath.Path, saved: Manifest) -> None:
    found = files.sizes(directory)
    for name, size in saved.files.items():
        if found.get(name) != size:
            state = f"has {found[name]} bytes" if name in found else "is missing"
            raise CorruptCheckpointError(f"{name} {state}, {size} were written")
    claimed = sum(math.prod(leaf.shape) * _itemsize(leaf.dtype) for leaf in saved.leaves.values())
    if claimed > MOST_PACKED * sum(saved.files.values()):
        raise CorruptCheckpointError(f"{manifest.NAME} claims {claimed} bytes of arrays, more than its files can hold")


def _itemsize(dtype: str) -> int:
    """Return the bytes an element takes on disk at least: 0 where the dtype is not one of numpy's (PRNG keys)."""
    try:
        return np.dtype(dtype).itemsize
    except TypeError:
        return 0


def _check_digests(found: Mapping[str, Any], saved: Manifest) -> None:
    sums = processes.added(digests.digests(arrays.pieces(found)))
    bad = [path for path, value in sums.items() if value != saved.leaves[path].digest]
    if bad:
        more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise CorruptCheckpointError(f"the digest of {', '.join(bad[:SHOWN])}{more} is not the one that was saved")
