"""The ranks on this machine: started together, stopped together, and started again from the last checkpoint.

One that dies leaves the others in a collective, from which nothing brings them back: they are ended, and all start
again. A signal is passed on to all; they save the same step and end with 75, and so does the launcher.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import NamedTuple

from etils import epath

from llm_jax.core.table import UserError
from llm_jax.launch import execute
from llm_jax.launch.execute import Patience
from llm_jax.launch.job import Command
from llm_jax.store import files

LAST_WORDS = 3.0  # seconds that ranks have to say why, once one of them has died
POLL = 0.05
KNOWN = (0, 2, 75, 130)
GRAVITY = {130: 0, 2: 1, None: 2, 75: 3, 0: 4}  # None: any other code
DEATH_SIGNAL = 1  # of prctl(2): what a process gets when its parent dies
_libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None


class Ended(NamedTuple):
    """A rank's number, and its exit code; below zero, the signal that ended it."""

    rank: int
    code: int

    def __str__(self) -> str:
        if self.code >= 0:
            return f"rank {self.rank} ended with {self.code}"
        text = f"rank {self.rank} was ended by signal {-self.code} ({signal.strsignal(-self.code)})"
        if self.code != -signal.SIGKILL:
            return text
        return (
            f"{text}; unless somebody sent it, the kernel did, for want of memory: give fewer --ranks, or less to "
            "each of them by --config.train.microbatches, --config.data.batch_size or --config.mesh.remat=full"
        )


def supervise(
    commands: Callable[[str], Sequence[Command]],
    workdir: str,
    restarts: int,
    patience: Patience,
    say: Callable[[str], None],
) -> int:
    """Run ranks until all have ended well, or have been started again so often, and return the exit code.

    Args:
        commands: of the ranks, given the port of the first one.
        workdir: of the run; no other launcher of this machine may run there.
        restarts: how often.
        patience: the pauses between.
        say: prints a line.

    Raises:
        UserError: somebody else launched a run in this workdir, or it cannot be made.
    """
    with _alone(workdir), _Signals() as signals:
        pauses = patience.pauses()
        for attempt in range(restarts + 1):
            ended = together(commands(_free_port()), signals)
            code = ended.code
            if code in KNOWN or signals.count:
                return code if code in KNOWN else 75 if signals.count == 1 else 130
            if attempt < restarts:
                pause = next(pauses)
                say(f"{ended}; all start again from the last checkpoint in {pause:g} s ({attempt + 1} of {restarts})")
                signals.sleep(pause)
                if signals.count:
                    return 75 if signals.count == 1 else 130
        say(f"{ended}" + (f"; that was the last of {restarts} restarts" if restarts else ""))
        return 1


def together(commands: Sequence[Command], signals: "_Signals") -> Ended:
    """Run ranks until all have ended, and return whose end is the run's: the first that died, else the gravest."""
    ranks: list[subprocess.Popen] = []
    readers = []
    try:
        for number, command in enumerate(commands):
            pipe = subprocess.PIPE if number else None
            error = subprocess.STDOUT if number else None
            ranks.append(execute.start(command, stdout=pipe, stderr=error, preexec_fn=_die_with_us))
            if number:
                readers.append(threading.Thread(target=_echo, args=(ranks[-1], number), daemon=True))
                readers[-1].start()
        signals.pass_to(ranks)
        ended = _ended(ranks)
    finally:
        for rank in ranks:
            if rank.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(rank.pid, signal.SIGKILL)
                rank.wait()
        for reader in readers:
            reader.join(5)
        signals.ranks = []
    return min(ended, key=lambda one: GRAVITY.get(one.code, GRAVITY[None]))


def _ended(ranks: Sequence[subprocess.Popen]) -> list[Ended]:
    """Wait for all ranks, or for one that ends in error and then a little; return those that ended, the first first.

    Of several that are found to have ended at one look, those come first that a signal ended: others die of their loss.
    """
    ended: list[Ended] = []
    until: float | None = None
    while len(ended) < len(ranks) and (until is None or time.monotonic() < until):
        known = {one.rank for one in ended}
        codes = [(number, rank.poll()) for number, rank in enumerate(ranks) if number not in known]
        ended += sorted((Ended(n, code) for n, code in codes if code is not None), key=lambda one: one.code >= 0)
        if until is None and any(one.code not in (0, 75) for one in ended):
            until = time.monotonic() + LAST_WORDS
        time.sleep(POLL)
    return ended


def _echo(rank: subprocess.Popen, number: int) -> None:
    assert rank.stdout is not None
    with rank.stdout:
        for line in rank.stdout:
            print(f"[{number}] {line}", end="", file=sys.stderr, flush=True)


def _die_with_us() -> None:
    """In the child: SIGTERM, so that it saves, should the launcher be killed."""
    if _libc is not None:
        _libc.prctl(DEATH_SIGNAL, signal.SIGTERM)


def _free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@contextlib.contextmanager
def _alone(workdir: str) -> Iterator[None]:
    """Hold the workdir for this launcher.

    Raises:
        UserError: another launcher of this machine has it, or it cannot be made.
    """
    path = epath.Path(workdir).expanduser()
    try:
        if files.is_local(path):
            path.mkdir(parents=True, exist_ok=True)
        held = files.lock(path)
    except UserError as error:
        raise UserError(f"it runs already: {error}") from None
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be used: {error.strerror}; name another") from None
    with held:
        yield


class _Signals:
    """Passes SIGINT and SIGTERM on to the ranks; the second ends them at once."""

    def __init__(self) -> None:
        self.count = 0
        self.missed = False  # one came while there were no ranks, or not all
        self.ranks: Sequence[subprocess.Popen] = []

    def __enter__(self) -> "_Signals":
        self._before = {s: signal.signal(s, self._on) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.missed = not self.ranks
        self._pass()

    def pass_to(self, ranks: Sequence[subprocess.Popen]) -> None:
        """Pass signals on to these from now on, and the one that came while they were started."""
        self.ranks = ranks
        if self.missed:
            self.missed = False
            self._pass()

    def _pass(self) -> None:
        for rank in self.ranks:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(rank.pid, signal.SIGTERM if self.count == 1 else signal.SIGKILL)

    def sleep(self, seconds: float) -> None:
        """Sleep, but not on after a signal."""
        until = time.monotonic() + seconds
        while not self.count and time.monotonic() < until:
            time.sleep(POLL)
