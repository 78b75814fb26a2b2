"""TPU VMs: a queued resource holds the slices; the code is copied to every host, and training is started there.

What runs on a host outlives the connection: `HOST` starts it, or finds it running, and follows its log to its end, so
that the same command starts, attaches and attaches again (cloud.google.com/tpu/docs/queued-resources).
"""

import json
import shlex

from llm_jax.core.table import UserError
from llm_jax.launch import chips
from llm_jax.launch.job import Command, Job, Plan, Result, Status, needed
from llm_jax.run.targets import TpuVm

REQUIRED = ("project", "zone")
CODE = ("llm_jax", "configs", "requirements.txt")
HOST = """\
cd "$HOME/$1" && shift || exit 1
exec 9> lock && flock 9 || exit 1
if ! { [ -f pid ] && kill -0 "$(cat pid)" 2>/dev/null; }; then
  if [ ! -f ready ]; then
    python3 -m pip install --user --quiet uv &&
    python3 -m uv venv --quiet --python 3.12 .venv &&
    python3 -m uv pip install --quiet --python .venv/bin/python -r requirements.txt 'jax[tpu]' &&
    touch ready || exit 1
  fi
  rm -f code
  : > log
  setsid sh -c 'trap : TERM; "$@"; echo $? > code' llm_jax "$@" >> log 2>&1 < /dev/null 9>&- &
  echo $! > pid
fi
exec 9>&-
tail --lines=1000 --follow --pid="$(cat pid)" log
code=$(cat code 2>/dev/null || echo 1)
echo "llm_jax: exit $code"
exit "$code"
"""
"""What a host's shell runs, with its parameters: the folder, then the command of the process. One at a time looks
whether it runs and starts it: the host takes minutes to be made ready, in which a lost connection is taken up again.
"""
END = """\
cd "$HOME/$1" 2>/dev/null || exit 0
[ -f pid ] && kill -s TERM -- "-$(cat pid)" 2>/dev/null && tail --lines=0 --follow --pid="$(cat pid)" log
exit 0
"""
STATES: dict[str, Status] = {"ACTIVE": "running", "SUSPENDED": "stopped", "FAILED": "failed"}
"""State of a queued resource -> status; in all others it is on its way."""


def shell(script: str, *parameters: str) -> str:
    """Return a command line that runs `script` with `parameters`, each one word, whatever is in it."""
    return shlex.join(["sh", "-c", script, "llm_jax", *parameters])


def plan(job: Job, section: TpuVm) -> Plan:
    """Return the commands.

    Raises:
        UserError: no topology, one that is not offered as VMs, or a bill that names two sorts of capacity.
    """
    slices = needed(job, "tpu_vm")
    if section.spot and section.reserved:
        raise UserError("launch.tpu_vm: spot and reserved exclude each other; give one")
    names = chips.tpu(slices, "tpu_vm")
    resources = ("gcloud", "alpha", "compute", "tpus", "queued-resources")
    where = (f"--project={section.project}", f"--zone={section.zone}")
    everywhere = ("--node=all", "--worker=all")
    nodes: tuple[str, ...] = (f"--node-id={job.name}",)
    if slices.count > 1:
        nodes = (f"--node-count={slices.count}", f"--node-prefix={job.name}")
    options = {"network": section.network, "service-account": section.service_account}
    create = (
        *resources, "create", job.name, *where, *nodes, f"--accelerator-type={chips.accelerator_type(slices)}",
        f"--runtime-version={section.runtime or names.runtime}", *(["--spot"] if section.spot else []),
        *(["--reserved"] if section.reserved else []), *(f"--{k}={v}" for k, v in options.items() if v), "--quiet",
    )  # fmt: skip
    delete = Command((*resources, "delete", job.name, *where, "--force", "--quiet"), "give the chips back")

    def on_hosts(line: str, why: str) -> Command:
        return Command((*resources, "ssh", job.name, *where, *everywhere, f"--command={line}"), why)

    copy = (*resources, "scp", *CODE, f"{job.name}:{job.name}/", *where, *everywhere, "--recurse")
    return Plan(
        status=Command((*resources, "describe", job.name, *where, "--format=json"), "is it there already?"),
        read=described,
        submit=Command(create, "queue for the chips"),
        prepare=(
            on_hosts(shlex.join(["mkdir", "-p", job.name]), "make room for the code on every host"),
            Command(copy, "copy the code to every host"),
        ),
        attach=on_hosts(shell(HOST, job.name, *job.train(".venv/bin/python")), "train, or attach to what trains"),
        discard=(delete,),
        cleanup=() if section.keep else (delete,),
        stop=(on_hosts(shell(END, job.name), "let every host save"), delete),
        restarts=job.restarts,
        exits=True,
    )


def described(result: Result) -> Status | None:
    """Understand what gcloud says of the queued resource; that it cannot be reached is no answer."""
    if result.code != 0:
        return "absent" if "NOT_FOUND" in result.err else None
    try:
        return STATES.get(json.loads(result.out)["state"]["state"], "waiting")
    except (ValueError, KeyError, TypeError):
        return None
