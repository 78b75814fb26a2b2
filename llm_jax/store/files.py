"""Files that a kill or a full disk cannot spoil: atomic writes, logs that survive a torn line, syncs and a lock."""

import contextlib
import errno
import json
import logging
import os
import socket
from typing import Any

from etils import epath

from llm_jax.core.table import UserError

log = logging.getLogger(__name__)
TEMPORARY = ".tmp"  # ends the name of what is not finished, or is being removed
_held: set[str] = set()  # the locks of this process: POSIX would let one process lock a file twice


def is_local(path: epath.PathLike) -> bool:
    """Say whether a path is on a file system with rename, fsync and locks (and not gs:// or the like)."""
    return "://" not in os.fspath(path)


def write_text(path: epath.Path, text: str) -> None:
    """Replace a file at once: readers, and whoever comes after a kill, see the old text or the new, never a part."""
    if not is_local(path):
        path.write_text(text)  # object stores publish a whole object or none
        return
    partial = f"{os.fspath(path)}.{os.getpid()}.partial"
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
    sync_directory(path.parent)


def write_json(path: epath.Path, value: Any) -> None:
    """Write a JSON file atomically, indented, with its keys in the order given; NaN and infinities are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: epath.Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: it is missing, unreadable or not JSON; the message says where.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); restore it from a copy") from error


def append_line(path: epath.Path, value: dict[str, Any]) -> bool:
    """Append one JSON object as a line, by a single write, after a torn last line too.

    Returns False, having logged a warning, when the disk refuses: a log never stops a run.
    """
    line = json.dumps(value, default=str) + "\n"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            end = os.lseek(descriptor, 0, os.SEEK_END)
            torn = end > 0 and os.pread(descriptor, 1, end - 1) != b"\n"
            content = ("\n" * torn + line).encode()
            if os.write(descriptor, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)
    except OSError as error:
        log.warning("%s: a line was lost: %s", path, error)
        return False
    return True


def read_lines(path: epath.Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines, none if it is missing; a line torn by a kill or a full disk is skipped and logged."""
    values: list[dict[str, Any]] = []
    if not path.exists():
        return values
    for number, line in enumerate(path.read_bytes().decode("utf-8", "replace").split("\n"), 1):
        if not line:
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            values.append(value)
        else:
            log.warning("%s:%d is no JSON object and was skipped: %.60r", path, number, line)
    return values


def sync_directory(path: epath.PathLike) -> None:
    """Make the names in a local directory (what was created, renamed or removed) survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(directory: epath.Path) -> None:
    """Make all files and names below a local directory survive a power cut."""
    for folder, _, names in os.walk(directory):
        for name in names:
            sync_directory(os.path.join(folder, name))
        sync_directory(folder)


def sizes(directory: epath.Path) -> dict[str, int]:
    """Return {name within the directory: size in bytes} of all files below it."""
    found: dict[str, int] = {}
    for path in directory.iterdir():
        inside = sizes(path) if path.is_dir() else {"": path.stat().length}
        found |= {f"{path.name}/{name}".rstrip("/"): size for name, size in inside.items()}
    return dict(sorted(found.items()))


def set_aside(directory: epath.Path) -> epath.Path:
    """Take a local directory from its place at once, whole, and return where it is until it is removed."""
    doomed = directory.parent / f"{directory.name}.removed{TEMPORARY}"
    os.rename(directory, doomed)
    return doomed


def lock(directory: epath.Path) -> contextlib.ExitStack:
    """Hold a directory for one job of this machine, until the result is closed (use `with`) or the process dies.

    Object stores have no locks: there this does nothing.

    Raises:
        UserError: somebody holds it; the message names the process.
    """
    held = contextlib.ExitStack()
    if not is_local(directory):
        return held
    import fcntl

    name = os.path.realpath(directory / "lock")
    if name in _held:
        raise UserError(f"{directory} is in use by this very process; close the first user of it")
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise UserError(
            f"{directory} is in use by another job ({holder}); stop it first, or give this one a --workdir of its own"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    _held.add(name)
    held.callback(os.close, descriptor)
    held.callback(_held.discard, name)
    return held
