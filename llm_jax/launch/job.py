"""What is to be run, on which chips, under which name; and the commands that a target makes of it."""

import copy
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llm_jax.core.table import UserError

LONGEST = 40  # of a name: targets append numbers to it, up to the 63 characters of a host's name
Status = Literal["absent", "waiting", "running", "done", "stopped", "refused", "failed"]


@dataclass(frozen=True)
class Command:
    """A vector of arguments, what it reads, and what it is for."""

    argv: tuple[str, ...]
    why: str
    stdin: str | None = None
    env: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Result:
    """How a command ended: its exit code (None: it hung and was ended) and what it wrote."""

    code: int | None
    out: str
    err: str


@dataclass(frozen=True)
class Slices:
    """`count` equal slices of chips: the kind ("v5e") and the dimensions of one; on GPUs (hosts, GPUs of a host)."""

    chip: str
    dims: tuple[int, ...]
    count: int = 1

    @property
    def shape(self) -> str:
        """The dimensions as providers write them: "16x16"."""
        return "x".join(map(str, self.dims))


@dataclass(frozen=True)
class Job:
    """A training run as it is to be started.

    arguments: what `train` gets after --config and --workdir. restarts: how often the run is started again after it was
    preempted or died.
    """

    name: str
    config: str
    workdir: str
    arguments: tuple[str, ...] = ()
    slices: Slices | None = None
    restarts: int = 0

    def train(self, python: str = "python") -> tuple[str, ...]:
        """The command of one process."""
        return (python, "-m", "llm_jax", "train", f"--config={self.config}", f"--workdir={self.workdir}",
                *self.arguments)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """The commands of a target that runs elsewhere, in the order in which they are needed.

    status: asks for the job; `read` understands the answer (None: it is none). submit: makes it. prepare: once it runs,
    before `attach`.
    attach: writes the job's log as long as it goes on. outcome: asks how a job ended that `status` no longer knows.
    discard: removes one that has ended. cleanup: what a job costs after its end. stop: ends it. restarts: how often the
    driver submits it again; 0 where the target does so itself. exits: whether lines of `attach` say with which codes
    the processes ended, while the machines stay.
    """

    status: Command
    read: Callable[[Result], Status | None]
    submit: Command
    attach: Command
    stop: tuple[Command, ...]
    prepare: tuple[Command, ...] = ()
    outcome: tuple[Command, Callable[[Result], Status | None]] | None = None
    discard: tuple[Command, ...] = ()
    cleanup: tuple[Command, ...] = ()
    restarts: int = 0
    exits: bool = False

    def commands(self) -> list[Command]:
        """What a run that goes well executes."""
        return [self.status, self.submit, *self.prepare, self.attach, *self.cleanup]


def named(name: str | None, workdir: str) -> str:
    """Return the job's name, by default one that each workdir has of its own.

    Raises:
        UserError: the name is not one that every target takes.
    """
    if name is None:
        workdir = workdir.rstrip("/")
        last = re.sub(r"[^a-z0-9]+", "-", workdir.rsplit("/", 1)[-1].lower()).strip("-")
        digest = hashlib.sha256(workdir.encode()).hexdigest()[:6]
        return f"{'' if last[:1].isalpha() else 'run-'}{last}"[: LONGEST - 7].rstrip("-") + f"-{digest}"
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name, re.ASCII) or len(name) > LONGEST:
        raise UserError(
            f"--name={name!r} must be at most {LONGEST} of a-z, 0-9 and -, begin with a letter and not end with -"
        )
    return name


def filled(section: Any, required: Sequence[str]) -> tuple[Any, list[str]]:
    """Return the section with <PLACEHOLDERS> where something required is missing, and the names of what is."""
    missing = [name for name in required if getattr(section, name) is None]
    full = copy.copy(section)
    for name in missing:
        object.__setattr__(full, name, f"<{name.upper()}>")  # not checked as a value is: it may stand for a number
    return full, missing


def needed(job: Job, target: str) -> Slices:
    """Return the job's slices.

    Raises:
        UserError: none were named.
    """
    if job.slices is None:
        raise UserError(f"--on={target} needs --topology=CHIP:DIMENSIONS, such as v5e:4x4 (and --slices=N)")
    return job.slices
