"""A job elsewhere, from its submission to its end: found or submitted, watched, submitted again, cleaned up.

The job is looked for before it is submitted, so that a second launch attaches to the first one's job. Leaving
(Ctrl-C, a closed terminal) leaves the job as it is: the same command attaches again, and --stop ends it.
"""

import re
import time
from collections.abc import Callable

from llm_jax.launch import execute
from llm_jax.launch.execute import Patience
from llm_jax.launch.job import Command, Plan, Result, Status

EXITS = {"done": 0, "refused": 2, "stopped": 75, "failed": 1, "absent": 1}
ENDED = re.compile(r"llm_jax: exit (\d+)\s*$")
Say = Callable[[str], None]


def drive(plan: Plan, name: str, patience: Patience, say: Say) -> int:
    """See a job through to its end and return the exit code of `train`.

    Raises:
        UserError: a command failed again and again.
    """
    ended: Status = "failed"
    pauses = patience.pauses()
    for attempt in range(plan.restarts + 1):
        ensure(plan, name, patience, say)
        ended = watch(plan, name, patience, say)
        if ended == "absent":  # --stop elsewhere: what somebody gave back is not asked for again
            say(f"{name} is gone: somebody ended it, and it is not submitted again")
            return EXITS[ended]
        if ended in ("done", "refused") or attempt == plan.restarts:
            break
        pause = next(pauses)
        say(f"{name} {ended}; submitting it again in {pause:g} s ({attempt + 1} of {plan.restarts})")
        time.sleep(pause)
    for command in plan.cleanup:
        execute.insist(command, patience)
    say(f"{name}: {ended}")
    return EXITS[ended]


def stop(plan: Plan, name: str, patience: Patience, say: Say) -> int:
    """End a job and remove what it costs; one that is not there is no error."""
    if ask(plan, patience) == "absent":
        say(f"{name} is not there")
        return 0
    for command in plan.stop[:-1]:  # asking the hosts is a courtesy
        execute.run(command, patience)
    execute.insist(plan.stop[-1], patience)
    say(f"{name} is ended")
    return 0


def ask(plan: Plan, patience: Patience) -> Status:
    """Return where the job stands.

    Raises:
        UserError: nobody answers.
    """
    return answered(plan.status, plan.read, patience)


def answered(command: Command, read: Callable[[Result], Status | None], patience: Patience) -> Status:
    """Run a command until `read` understands what it says."""
    return execute.until(command, patience, read, "cannot learn how the job stands")


def ensure(plan: Plan, name: str, patience: Patience, say: Say) -> None:
    """Submit the job, unless it is there; what is left of an ended one is removed first."""
    status = ask(plan, patience)
    if status in ("waiting", "running"):
        say(f"{name} is there already ({status}); attaching to it")
        return
    if status != "absent":
        for command in plan.discard:
            execute.insist(command, patience)
    execute.insist(plan.submit, patience, again=lambda: ask(plan, patience) == "absent")
    say(f"{name} is submitted")


def watch(plan: Plan, name: str, patience: Patience, say: Say) -> Status:
    """Follow the job until it has ended, and return how; "absent": it is gone without having said so."""
    status = _begun(plan, name, patience, say)
    if status != "running":
        return _outcome(plan, status, patience)
    for command in plan.prepare:
        execute.insist(command, patience, again=lambda: ask(plan, patience) == "running")
    pauses = patience.pauses()
    while status in ("running", "waiting"):
        codes: list[int] = []
        stream = execute.Stream(plan.attach, lambda line, codes=codes: _heard(line, codes, say))  # type: ignore[misc]
        try:
            ended = None
            while ended is None and status in ("running", "waiting"):
                ended = stream.wait(patience.poll)
                status = ask(plan, patience)
            if status not in ("running", "waiting"):
                stream.wait(patience.poll)  # the last lines
        finally:
            stream.close()
        if codes and plan.exits:
            return of_exits(codes, ended)
        if status in ("running", "waiting"):
            time.sleep(next(pauses))
    return _outcome(plan, status, patience)


def of_exits(codes: list[int], ended: int | None) -> Status:
    """Return how a run ended whose hosts ended with `codes`, and the connection to them with `ended`."""
    if 2 in codes:
        return "refused"
    if 75 in codes:
        return "stopped"
    return "done" if ended == 0 and not any(codes) else "failed"


def _begun(plan: Plan, name: str, patience: Patience, say: Say) -> Status:
    """Wait while the job waits; return what it then is. Schedulers may need a moment to list what was submitted."""
    before: Status | None = None
    unseen = patience.tries
    while True:
        status = ask(plan, patience)
        unseen -= status == "absent"
        if status != "waiting" and not (status == "absent" and unseen):
            return status
        if status == "waiting" != before:
            say(f"{name} waits for its machines; leaving (Ctrl-C) does not end it")
        before = status
        time.sleep(patience.poll)


def _heard(line: str, codes: list[int], say: Say) -> None:
    match = ENDED.search(line)
    if match:
        codes.append(int(match[1]))
    say(line)


def _outcome(plan: Plan, status: Status, patience: Patience) -> Status:
    """How the job ended, asked of those who keep account of such that are gone."""
    return status if status != "absent" or plan.outcome is None else answered(*plan.outcome, patience)
