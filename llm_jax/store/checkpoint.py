"""The checkpoints of a run: saved in the background, whole or not at all, and verified whenever they are read.

Steps are listed from the disk every time, never from memory. A damaged one is moved to corrupt/ once an older one has
been verified; when none verifies nothing is moved and the error stays, so that no run starts again unnoticed.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from etils import epath

from llm_jax.core.table import UserError
from llm_jax.store import arrays, commit, digests, files, stream
from llm_jax.store.manifest import CorruptCheckpointError, Leaf, Manifest
from llm_jax.store.retention import Keep
from llm_jax.store.verify import read_step

log = logging.getLogger(__name__)
Event = dict[str, Any]


class Checkpoints:
    """The checkpoints in one directory; every process of a run makes the same calls.

    Args:
        directory: made at the first save; from then until `close` no other job may save there.
        keep: which steps stay.
        report: called with each event: {"event": "saved" | "save_failed" | "removed" | "corrupt", "step": …}, for saves
            from their own thread. Events are logged too, and gathered in `events`.

    `last_error` is why the save that finished last failed, or None.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        keep: Keep = Keep(),  # noqa: B008  # frozen
        report: Callable[[Event], object] = lambda event: None,
    ):
        self.directory = epath.Path(directory)
        self.keep = keep
        self.events: list[Event] = []
        self.last_error: Exception | None = None
        self._report = report
        self._saving: threading.Thread | None = None
        self._lock: contextlib.ExitStack | None = None

    def steps(self) -> list[int]:
        """Return the steps on disk, in order."""
        return commit.steps(self.directory)

    def latest(self) -> int | None:
        """Return the newest step on disk, or None."""
        return max(self.steps(), default=None)

    def save(
        self,
        step: int,
        state: Any,
        *,
        meta: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Save `state` as `step` in the background; once this returns, its buffers may be donated.

        Waits for an earlier save first; a step that is there already is replaced. A failure (full disk, no permission)
        is no exception but an event and `last_error`: the older steps stay as they are.

        Args:
            step: a whole number from 0.
            state: a tree of arrays, PRNG keys and Python numbers.
            meta: further fields of `Manifest`: config_hash, data_position, code_version, notes.
            metrics: what `keep.best` chooses by.

        Raises:
            UserError: another job saves into this directory, or a leaf cannot be saved.
        """
        if step < 0:
            raise UserError(f"step={step} cannot be saved; steps count from 0")
        self.wait()
        started = time.monotonic()
        leaves = arrays.leaves_of(state)
        numbers = {name: float(value) for name, value in (metrics or {}).items()}
        form, keys = arrays.described(leaves), arrays.prng(leaves)
        head = Manifest(step=int(step), leaves=form, prng=keys, metrics=numbers, **(meta or {}))
        try:
            self._own()
            work = commit.prepare(self.directory, head.step)
            stored = arrays.words(leaves)
            pieces = arrays.pieces(stored)
            writing = arrays.start_writing(work / arrays.FOLDER, stored)
        except UserError:
            raise
        except Exception as error:
            self._failed(head.step, error)
            return
        self._saving = threading.Thread(target=self._finish, args=(work, head, pieces, writing, started), name="save")
        self._saving.start()

    def stream(
        self, step: int, forms: Mapping[str, Leaf], leaves: stream.Leaves, *, meta: Mapping[str, Any] | None = None
    ) -> None:
        """Save a step whose arrays come one by one, before this returns: two of them are in memory, at most.

        Only a program of one process may: there the arrays are whole.

        Args:
            step: a whole number from 0.
            forms: path -> shape and dtype of each array, in the order of the tree.
            leaves: (path, array on the host) of each, in any order.
            meta: as of `save`.

        Raises:
            UserError: another job saves into this directory, or the disk refuses the arrays. Whatever `leaves` raises
                passes as it is. In any case nothing is left of the step.
        """
        self.wait()
        started = time.monotonic()
        self._own()
        try:
            work = commit.prepare(self.directory, step)
            sums = stream.write(work / arrays.FOLDER, forms, leaves)
            commit.commit(work, Manifest(step=step, leaves=dict(forms), **(meta or {})), sums)
        except BaseException:
            self._clean()
            raise
        self._saved(step, started)

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add to a saved step what it was found to be worth afterwards, and make room by it; waits for its save first.

        Nothing happens where that save failed; a failure here is told as that of a save.
        """
        self.wait()
        if jax.process_index() != 0 or step not in self.steps():
            return
        self._own()
        try:
            commit.add_metrics(self.directory / str(step), metrics)
        except (OSError, CorruptCheckpointError) as error:
            self._failed(step, error)
        self._make_room()

    def wait(self) -> None:
        """Wait until no save is under way."""
        if self._saving is not None:
            self._saving.join()
            self._saving = None

    def close(self) -> None:
        """Wait, then let other jobs save here. Call it before the program ends (or use `with`)."""
        self.wait()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def restore(self, abstract: Any = None, step: int | None = None, *, part: str = "") -> tuple[Any, Manifest]:
        """Return (state, manifest) of a step, every digest verified; by default of the newest step that verifies.

        Args:
            abstract: a tree like the one saved, of jax.ShapeDtypeStruct or arrays. A leaf with a sharding comes back as
                a jax.Array placed so, one without as numpy. None gives nested dictionaries of numpy arrays, by path.
            step: this one and no other.
            part: only the subtree at this path, such as "params": `abstract` and the result are that subtree, and no
                other array is read.

        Raises:
            UserError: there is no such step or part, or the tree, a shape or a dtype differs (the first differences are
                listed, before any array is read).
            CorruptCheckpointError: the step asked for is damaged, or all are.
        """
        self.wait()
        found = self.steps()
        if not found or (step is not None and step not in found):
            wanted = "checkpoint" if step is None else f"checkpoint of step {step}"
            raise UserError(f"there is no {wanted} in {self.directory}; steps there: {found or 'none'}")
        if step is not None:
            return read_step(self.directory / str(step), abstract, part)
        damaged: dict[int, CorruptCheckpointError] = {}
        for candidate in reversed(found):
            try:
                restored = read_step(self.directory / str(candidate), abstract, part)
            except CorruptCheckpointError as error:
                log.error("%s", error)
                damaged[candidate] = error
            else:
                self._quarantine(damaged)
                return restored
        if self.steps() != found:  # another job saved and removed steps meanwhile
            return self.restore(abstract, part=part)
        reasons = "\n  ".join(map(str, damaged.values()))
        raise CorruptCheckpointError(f"no checkpoint in {self.directory} is whole; nothing was moved:\n  {reasons}")

    def _finish(self, work: epath.Path, head: Manifest, pieces: dict[str, Any], writing: Any, started: float) -> None:
        """Digest, wait for the arrays, commit: the background half of a save."""
        try:
            try:
                sums = digests.digests(pieces)
            finally:
                pieces.clear()
                with contextlib.closing(writing):
                    writing.wait_until_finished()
            commit.commit(work, head, sums)
        except Exception as error:
            self._failed(head.step, error)
            return
        self._saved(head.step, started)

    def _saved(self, step: int, started: float) -> None:
        """Tell of a step, and make room."""
        self.last_error = None
        self._tell("saved", step, seconds=round(time.monotonic() - started, 3))
        if jax.process_index() == 0:
            self._make_room()

    def _make_room(self) -> None:
        for old in commit.make_room(self.directory, self.keep):
            self._tell("removed", old)

    def _failed(self, step: int, error: Exception) -> None:
        self.last_error = error
        self._clean()
        self._tell("save_failed", step, error=f"{type(error).__name__}: {error}")

    def _quarantine(self, damaged: Mapping[int, CorruptCheckpointError]) -> None:
        for step, error in damaged.items():
            moved_to = commit.quarantine(self.directory, step) if jax.process_index() == 0 else None
            self._tell("corrupt", step, error=str(error), moved_to=str(moved_to or ""))

    def _own(self) -> None:
        """Become the only job that saves here, and remove what killed ones left behind."""
        if self._lock is None and jax.process_index() == 0:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock = files.lock(self.directory)
            self._clean()

    def _clean(self) -> None:
        """Remove unfinished saves: none is alive but this object's own, as it holds the lock."""
        if self._lock is not None:
            for leaked in self.directory.glob(f"*{files.TEMPORARY}"):
                with contextlib.suppress(OSError):
                    leaked.rmtree()

    def _tell(self, event: str, step: int, **more: Any) -> None:
        entry = {"event": event, "step": step, **more}
        self.events.append(entry)
        log.log(logging.ERROR if event in ("save_failed", "corrupt") else logging.INFO, "checkpoint: %s", entry)
        self._report(entry)
