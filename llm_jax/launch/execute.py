"""The one place that starts programs: once, again with growing pauses, or as a stream of lines."""

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, TypeVar

from llm_jax.core.table import UserError
from llm_jax.launch.job import Command, Result

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Patience:
    """Times in seconds. tries: of a command. first: the pause after a failure, which doubles up to `longest`.

    timeout: after which a command counts as hung. poll: between two looks at a job.
    """

    tries: int = 5
    first: float = 2.0
    longest: float = 60.0
    timeout: float = 300.0
    poll: float = 15.0

    def pauses(self) -> Iterator[float]:
        """The pauses after the first failure, the second, and so on, without end."""
        pause = self.first
        while True:
            yield min(pause, self.longest)
            pause = min(2 * pause, self.longest)


def start(command: Command, **how: object) -> subprocess.Popen:
    """Start a program in a process group of its own: a Ctrl-C at the terminal is ours to pass on.

    What it writes is read as UTF-8, with U+FFFD for what is not.

    Raises:
        UserError: the program is not installed.
    """
    try:
        environ = {**os.environ, **dict(command.env)}
        return subprocess.Popen(command.argv, env=environ, process_group=0, encoding="utf-8", errors="replace", **how)  # type: ignore[call-overload]
    except FileNotFoundError:
        raise UserError(f"{command.argv[0]} is not installed here, and it is needed to {command.why}") from None


def run(command: Command, patience: Patience) -> Result:
    """Run a command to its end, or end it when it hangs.

    It writes into files: a pipe would end only with all that it leaves behind, such as a shared connection of ssh.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with start(command, stdin=subprocess.PIPE, stdout=out, stderr=err) as process:
            try:
                process.communicate(command.stdin or "", timeout=patience.timeout)
            except subprocess.TimeoutExpired:
                return Result(None, "", f"no answer in {patience.timeout:g} s")
            finally:
                end(process)
        return Result(process.returncode, *(_written(file) for file in (out, err)))


def _written(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def insist(command: Command, patience: Patience, again: Callable[[], bool] = lambda: True) -> Result:
    """Run a command until it succeeds, with pauses; `again` is asked before each further try.

    Raises:
        UserError: it failed every time; what it said last.
    """
    return until(
        command,
        patience,
        lambda result: result if result.code == 0 or not again() else None,
        f"could not {command.why}",
    )


def until(command: Command, patience: Patience, read: Callable[[Result], Answer | None], complaint: str) -> Answer:
    """Run a command, with pauses, until `read` makes something of its result, and return that.

    Raises:
        UserError: it never did: the complaint, and what the command said last.
    """
    pauses = patience.pauses()
    for left in reversed(range(patience.tries)):
        result = run(command, patience)
        answer = read(result)
        if answer is not None:
            return answer
        if left:
            time.sleep(next(pauses))
    raise UserError(f"{complaint}: {told(command, result)}")


def told(command: Command, result: Result) -> str:
    """What a failed command said, for people."""
    words = (result.err or result.out).strip().splitlines()[-3:]
    how = "hung" if result.code is None else f"ended with {result.code}"
    return f"{' '.join(command.argv[:6])} … {how}: {' / '.join(words) or 'without a word'}"


class Stream:
    """A running command, whose lines go to `each` as they come."""

    def __init__(self, command: Command, each: Callable[[str], None]):
        self._process = start(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._reader = threading.Thread(target=self._read, args=(each,), daemon=True)
        self._reader.start()

    def _read(self, each: Callable[[str], None]) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            each(line.rstrip("\n"))

    def wait(self, seconds: float) -> int | None:
        """Return its exit code, or None when it still runs after `seconds`."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        self._reader.join(5)
        return code

    def close(self) -> None:
        """End it."""
        end(self._process)
        self._reader.join(5)
        if self._process.stdout is not None and not self._reader.is_alive():
            self._process.stdout.close()


def end(process: subprocess.Popen) -> None:
    """End a process and what it started, if it still runs."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)
