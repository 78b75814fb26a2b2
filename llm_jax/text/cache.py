"""The cache of derived files: content-addressed folders that appear whole or not at all.

A folder's name is a hash of everything that its content depends on, so nothing is ever updated in place, two
processes that build the same thing at once both succeed, and the whole cache may be deleted at any time.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm_jax.core.table import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
STALE_SECONDS = 24 * 3600  # an unfinished folder that nobody wrote into for so long was left by a process that died


def folder(chosen: str | Path | None = None) -> Path:
    """Return the cache's folder: `chosen`, else $LLM_JAX_CACHE, else llm_jax under the user's cache folder (XDG)."""
    if chosen or os.environ.get("LLM_JAX_CACHE"):
        return Path(chosen or os.environ["LLM_JAX_CACHE"]).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "llm_jax"


def key(*parts: Any, version: int) -> str:
    """Return a name of 32 hexadecimal digits for the parts (JSON values) and the version of what is stored."""
    text = json.dumps([version, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def publish(where: Path, write: Callable[[Path], Any], replace: bool = False) -> None:
    """Make the folder `where` by calling `write` on a temporary one beside it, syncing, and renaming.

    If another process was first, its folder stands (or, with `replace`, is put aside for ours).

    Raises:
        UserError: the place cannot be written, or is full. Whatever else `write` raises passes as it is.
    """
    try:
        where.parent.mkdir(parents=True, exist_ok=True)
        _sweep(where)
        temporary = Path(tempfile.mkdtemp(prefix=f"{where.name}.tmp-", dir=where.parent))
    except OSError as error:
        raise _unwritable(where, error) from None
    try:
        write(temporary)
        temporary.chmod(0o755)  # others may read the cache
        for path in [*temporary.iterdir(), temporary]:
            sync(path)
        if replace:
            discard(where)
        try:
            os.rename(temporary, where)
        except OSError:
            if not where.is_dir():
                raise
        sync(where.parent)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise _unwritable(where, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unwritable(where: Path, error: OSError) -> UserError:
    return UserError(
        f"{where} cannot be written ({error.strerror}); make room there, or name another place (for the cache, by the "
        "environment's LLM_JAX_CACHE)"
    )


def discard(where: Path) -> None:
    """Remove the folder `where`, if there is one, in a way that no reader sees a half of it."""
    grave = Path(tempfile.mkdtemp(prefix=f"{where.name}.tmp-", dir=where.parent))
    try:
        os.rename(where, grave / "old")
    except FileNotFoundError:
        pass
    finally:
        shutil.rmtree(grave, ignore_errors=True)


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(where: Path) -> None:
    """Remove what processes that died long ago left unfinished."""
    for old in where.parent.glob(f"{where.name}.tmp-*"):
        try:
            stale = time.time() - max(path.stat().st_mtime for path in (old, *old.iterdir())) > STALE_SECONDS
        except OSError:
            continue
        if stale:
            shutil.rmtree(old, ignore_errors=True)
