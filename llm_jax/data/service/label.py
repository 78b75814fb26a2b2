"""Answers of a service to the records of a file, appended to another one by one, in the order of the records.

A line is written when those before it are, and in one piece, so that a killed run leaves whole answers behind, and is
gone on with. Each line keeps a digest of what was asked for: the answers of other prompts, models or settings are
refused, not mixed.
"""

import fcntl
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from llm_jax.core.table import UserError
from llm_jax.data.examples.records import Record
from llm_jax.data.service.client import Service
from llm_jax.data.service.questions import ABOUT, Answer, Questions


@dataclass
class Labelled:
    """What came of it: lines that were there, that were added, answers without a text, and those that were cut."""

    before: int = 0
    added: int = 0
    empty: int = 0
    cut: int = 0


def label(
    records: Sequence[Record],
    questions: Questions,
    service: Service,
    to: Path,
    *,
    concurrency: int = 8,
    tell: Callable[[Labelled], object] = lambda labelled: None,
) -> Labelled:
    """Ask for what is not in the file `to` yet, and append it; a record whose answer is empty makes no line.

    Args:
        records: what is asked, in order.
        questions: how.
        service: whom.
        to: JSON lines.
        concurrency: questions on their way at once.
        tell: called after every answer.

    Raises:
        UserError: a record asks nothing (before any is asked), the file is of other questions or in use, or the
            service does not answer; what was answered before stays.
    """
    digests = [questions.digest(record) for record in records]
    with _appended(to) as file:
        done = Labelled()
        done.before, first = _answered(file, digests, to)
        left = records[first:]

        def ask(record: Record) -> Answer:
            try:
                found: Answer = service.ask(questions.kind.path, questions.body(record), questions.read)
            except UserError as error:
                raise UserError(f"{record.name}: {error}") from None
            return found

        for record, answer in zip(left, in_order(ask, left, concurrency), strict=True):
            if answer.text.strip():
                _append(file, questions.answered(record, answer), to)
                done.added += 1
                done.cut += answer.finish == "length"
            else:
                done.empty += 1
            tell(done)
    return done


def in_order(work: Callable[[Any], Any], items: Sequence[Any], concurrency: int) -> Iterator[Any]:
    """Yield the results of `work` in the order of the items, worked on by so many threads, at most twice as many ahead.

    Threads end with the process: one that waits for a service keeps nobody from leaving.
    """
    slots, left = threading.Semaphore(concurrency), threading.Event()

    def begin(item: Any) -> "Future[Any]":
        future: Future[Any] = Future()

        def run() -> None:
            with slots:
                if left.is_set():
                    return
                try:
                    future.set_result(work(item))
                except BaseException as error:  # it is raised where the result is asked for
                    future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future

    ahead: deque[Future[Any]] = deque()
    coming = iter(items)
    try:
        while True:
            while len(ahead) < 2 * concurrency and (item := next(coming, None)) is not None:
                ahead.append(begin(item))
            if not ahead:
                return
            yield ahead.popleft().result()
    finally:
        left.set()


@contextmanager
def _appended(to: Path) -> Iterator[BinaryIO]:
    """Open a file to read it and append to it without a buffer, for this process alone."""
    try:
        descriptor = os.open(to, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UserError(f"--to={to} cannot be written: {error.strerror}; name another file") from None
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"--to={to} is being written by another process; wait for it, or name another") from None
        yield file  # type: ignore[misc]  # unbuffered: a raw file


def _answered(file: BinaryIO, digests: Sequence[str], to: Path) -> tuple[int, int]:
    """Return how many lines there are, and how many records need not be asked; what a kill tore is cut off."""
    *lines, torn = file.read().split(b"\n")
    record = 0
    if torn and not lines:
        raise UserError(f"{to}:1 is no answer of a service; name another --to")
    for number, line in enumerate(lines, 1):
        try:
            asked = json.loads(line)[ABOUT]["asked"]
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{to}:{number} is no answer of a service; name another --to") from None
        while record < len(digests) and digests[record] != asked:
            record += 1
        if record == len(digests):
            raise UserError(
                f"{to}:{number} answers none of these questions: prompts, --model or settings were others; ask as "
                "before, or name another --to"
            )
        record += 1
    if torn:
        file.truncate(sum(map(len, lines)) + len(lines))
    return len(lines), record


def _append(file: BinaryIO, value: Mapping[str, Any], to: Path) -> None:
    line = json.dumps(value, ensure_ascii=False) + "\n"
    left = line.encode("utf-8", "backslashreplace")  # a lone surrogate becomes its JSON escape
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise UserError(f"--to={to} cannot be written: {error.strerror}; run again when it can") from None
