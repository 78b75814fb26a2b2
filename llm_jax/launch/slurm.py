"""Slurm: one batch script, whose tasks are the processes; it puts itself into the queue again (man sbatch).

A job that ends with 75 (preempted, or at the end of its time, with everything saved) or dies is requeued up to the
job's bound; one that was refused (2) is not. `singleton` lets no two jobs of one name run at once.
"""

import shlex

from llm_jax.core.table import UserError
from llm_jax.launch.chips import GPUS
from llm_jax.launch.job import Command, Job, Plan, Result, Status
from llm_jax.run.targets import Slurm

REQUIRED = ("partition", "nodes")
GRACE = 300  # seconds before the end of its time at which a job is told to save
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED", "RESV_DEL_HOLD")
RUNNING = ("RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "RESIZING")
BODY = """\
code=0
srun --kill-on-bad-exit=1 {train} || code=$?
echo "llm_jax: exit $code"
case "$code" in 0|2|130) exit "$code" ;; esac
if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
"""


def sized(job: Job, section: Slurm) -> tuple[str | int | None, int, int]:
    """Return (nodes, tasks of each, GPUs of each): those of a GPU topology, or as the section has them.

    Raises:
        UserError: the topology is of TPUs.
    """
    slices = job.slices
    if slices is None:
        gpus = section.gpus_per_node
        return section.nodes, section.tasks_per_node or max(gpus, 1), gpus
    if slices.chip not in GPUS:
        raise UserError(f"--on=slurm has no {slices.chip}; give GPUs as --topology=h100:HOSTSxGPUS, or --nodes")
    nodes, gpus = slices.dims[0] * slices.count, slices.dims[1]
    return nodes, section.tasks_per_node or gpus, gpus


def script(job: Job, section: Slurm) -> str:
    """Return the batch script."""
    nodes, tasks, gpus = sized(job, section)
    options = {
        "job-name": job.name, "partition": section.partition, "account": section.account, "nodes": nodes,
        "ntasks-per-node": tasks, "gpus-per-node": gpus or None, "cpus-per-task": section.cpus_per_task,
        "time": section.time, "chdir": section.directory, "output": log(job), "open-mode": "append",
        "signal": f"TERM@{GRACE}", "dependency": "singleton",
    }  # fmt: skip
    lines = [f"#SBATCH --{name}={_word(name, value)}" for name, value in options.items() if value is not None]
    body = BODY.format(train=shlex.join(job.train(section.python)), restarts=int(job.restarts))
    return "\n".join(["#!/bin/bash", *lines, "#SBATCH --requeue", "", body])


def _word(name: str, value: object) -> str:
    """Return a value as a line of options takes it: there is no quoting that every version of sbatch reads alike."""
    text = str(value)
    if not text or any(c.isspace() or c in "\"'\\#" or not c.isprintable() for c in text):
        raise UserError(f"launch.slurm: {name}={text!r} holds a blank, quote or #, which sbatch's options cannot")
    return text


def log(job: Job) -> str:
    """The file that the job writes, in the directory that it runs in."""
    return f"llm_jax-{job.name}.log"


def plan(job: Job, section: Slurm) -> Plan:
    """Return the commands."""
    where = f"{section.directory.rstrip('/')}/{log(job)}" if section.directory else log(job)
    mine = ("--me", f"--name={job.name}", "--noheader")
    ended = ("sacct", f"--name={job.name}", "--allocations", "--noheader", "--parsable2", "--format=State,ExitCode",
             "--starttime=now-30days")  # fmt: skip
    return Plan(
        status=Command(("squeue", *mine, "--format=%T"), "is it there already?"),
        read=queued,
        submit=Command(("sbatch", "--parsable"), "submit it", stdin=script(job, section)),
        attach=Command(("tail", "--follow=name", "--retry", "--lines=100", where), "follow its log"),
        outcome=(Command(ended, "how did it end?"), accounted),
        stop=(Command(("scancel", "--me", f"--name={job.name}"), "end it"),),
    )


def queued(result: Result) -> Status | None:
    """Understand squeue."""
    if result.code != 0:
        return None
    states = result.out.split()
    if not states:
        return "absent"
    return "waiting" if all(state in WAITING for state in states) else "running"


def accounted(result: Result) -> Status | None:
    """Understand sacct: the state and exit code of the newest job of that name, whose end it may not know yet."""
    rows = [line.split("|") for line in result.out.splitlines() if "|" in line]
    if result.code != 0 or not rows:
        return None
    state, code = rows[-1][0].split()[0], rows[-1][1].split(":")[0]
    if state in (*WAITING, *RUNNING):
        return None
    if state == "COMPLETED":
        return "done"
    by_code: dict[str, Status] = {"2": "refused", "75": "stopped"}
    return "stopped" if state in ("PREEMPTED", "TIMEOUT", "CANCELLED") else by_code.get(code, "failed")
