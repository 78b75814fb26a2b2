"""A run and its workdir: what is written when it starts, what must be the same when it goes on, and its state."""

import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from llm_jax import __version__
from llm_jax.core import durations
from llm_jax.core.table import UserError
from llm_jax.core.types import State
from llm_jax.mesh import hosts
from llm_jax.run.build import Run
from llm_jax.run.config import Config, differences, resolve
from llm_jax.run.exchange.started import begun_from, inherit
from llm_jax.run.open_run import open_run
from llm_jax.store import commit, files
from llm_jax.store.checkpoint import Checkpoints
from llm_jax.store.files import read_json, write_json
from llm_jax.store.manifest import CorruptCheckpointError, Manifest
from llm_jax.store.retention import Keep
from llm_jax.store.workdir import Workdir, append_event

VERSION = __version__
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers")
ENDLESS = ("constant", "inverse_sqrt")  # schedules that do not depend on the length of training


def check_place(path: str) -> None:
    """Refuse a workdir that could not be written, before any work is done; nothing is created.

    Raises:
        UserError: it is empty, a file, below a file, or may not be written.
    """
    if not path.strip():
        raise UserError("--workdir is empty; name the directory that the run is to be written to")
    if not files.is_local(path):
        return
    wanted = Path(path).expanduser()
    try:
        there = next(p for p in (wanted, *wanted.absolute().parents) if p.exists() or p.is_symlink())
        if not there.is_dir():
            raise UserError(f"--workdir={path}: {there} is not a directory; name another")
    except OSError as error:
        raise UserError(f"--workdir={path} cannot be used: {error.strerror}; name another") from None
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"--workdir={path} may not be written; name another, or mend the permissions of {there}")


def check_config(workdir: Workdir, config: Config, *, allow_change: bool = False) -> bool:
    """Return whether the workdir holds a run to go on with.

    Raises:
        UserError: its configuration differs in something that changes the result; the differences are listed.
    """
    if not workdir.config.exists() or not commit.steps(workdir.checkpoints):
        return False
    about = read_json(workdir.run) if workdir.run.exists() else {}
    made = next((how for how in ("imported", "compressed") if how in about), None)
    if made is not None:
        raise UserError(
            f"workdir={os.fspath(workdir.path)!r} holds a model that was {made}, which is not trained in its place; "
            f"name a new --workdir, and start from this one with --config.init_from={os.fspath(workdir.path)}"
        )
    old = resolve(read_json(workdir.config)).values  # whole, whatever keys have been added since
    changed = [line for line in differences(old, config.values) if not _only_longer(line, old, config.values)]
    if changed and not allow_change:
        listing = "\n  ".join(changed)
        raise UserError(
            f"workdir={os.fspath(workdir.path)!r} was trained with another configuration:\n  {listing}\n"
            "Use the configuration that it was started with, a new --workdir, or --allow_config_change"
        )
    return True


def _only_longer(line: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    if not line.startswith("train.duration:") or new["optimizer"]["schedule"]["name"] not in ENDLESS:
        return False
    before, after = durations.parse(old["train"]["duration"]), durations.parse(new["train"]["duration"])
    return before.unit == after.unit and after.value >= before.value


def start(run: Run, workdir: Workdir, *, resumed: bool) -> None:
    """Write what describes the run, and check that its data are still those that it began with.

    Raises:
        UserError: the data have changed since the run began.
    """
    if not hosts.is_first():
        return
    if resumed and workdir.run.exists():
        began = read_json(workdir.run).get("data")
        if began != run.data.fingerprint:
            raise UserError(
                f"the data have changed since this run began (fingerprint {began} -> {run.data.fingerprint}): "
                "restore them, or train in a new --workdir"
            )
    try:
        workdir.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir={workdir.path} cannot be made: {error.strerror}; name another") from None
    write_json(workdir.config, run.config.values)
    if not resumed:
        write_json(workdir.run, description(run))
        run.tokenizer.save(workdir.tokenizer)
        inherit(workdir, run.config.values["init_from"], run.template)
    append_event(workdir, "resumed" if resumed else "started", command=sys.argv[1:], pid=os.getpid())


def description(run: Run) -> dict[str, Any]:
    """What run.json says: versions, command, host, seed, data, and the commit where there is one."""
    return {
        "llm_jax": VERSION,
        "commit": _commit(),
        "command": ["llm_jax", *sys.argv[1:]],
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "host": socket.gethostname(),
        "devices": [f"{d.platform}:{d.device_kind}" for d in jax.devices()],
        "seed": run.config.values["seed"],
        "data": run.data.fingerprint,
        "tokenizer": run.tokenizer.fingerprint,
        "pins": run.pins,
        "started": time.time(),
        "context": open_run(source).context if (source := run.config.values["init_from"]) else None,
    }


def _commit() -> str | None:
    here = os.path.dirname(os.path.abspath(__file__))
    try:
        out = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return out.stdout.strip() if out.returncode == 0 else None


def checkpoints(run: Run, workdir: Workdir) -> Checkpoints:
    """Return the store of the run's checkpoints, events going to events.jsonl."""
    c = run.sections.checkpoint
    keep = Keep(last=c.keep_last, every=c.keep_every, best="loss" if c.keep_best else None)

    def report(event: dict[str, Any]) -> None:
        if hosts.is_first() or event["event"] == "save_failed":
            append_event(workdir, **{k: v for k, v in event.items() if k != "time"})

    return Checkpoints(workdir.checkpoints, keep, report)


def complain(saved: Checkpoints) -> None:
    """Wait for the last save, and refuse to end as if all were well when it failed.

    Raises:
        UserError: why it failed.
    """
    saved.wait()
    if saved.last_error is not None:
        raise UserError(
            f"the last checkpoint could not be saved: {saved.last_error}; the newest whole one is of step "
            f"{saved.latest()}. Make room or mend the permissions, then run the same command again"
        )


def state(run: Run, workdir: Workdir, saved: Checkpoints) -> tuple[State, Manifest]:
    """Return the state to go on from, and what is known of it: the newest checkpoint, or a new state.

    Raises:
        UserError: the checkpoints are of another model, or none of them is whole.
    """
    abstract = abstract_state(run)
    if saved.steps():
        try:
            return saved.restore(abstract)
        except CorruptCheckpointError as error:
            raise UserError(f"{error}\nRestore one from a copy, or train in a new --workdir") from None
    # Random bits take XLA's CPU compiler seconds at its full level; at this one the bits are the same.
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    init = jax.jit(run.learner.init, out_shardings=run.state_shardings, compiler_options=options)
    new: State = init(jax.random.key(run.config.values["seed"]))
    return begun_from(new, run.model, run.config.values["init_from"]), Manifest(step=0, leaves={})


def abstract_state(run: Run) -> State:
    """Return the state's shapes, dtypes and shardings, without making one."""
    shapes = jax.eval_shape(run.learner.init, jax.random.key(0))
    if run.state_shardings is None:
        here = SingleDeviceSharding(jax.devices()[0])
        return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here), shapes)
    wanted = jax.tree.broadcast(run.state_shardings, shapes)
    return jax.tree.map(lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), shapes, wanted)
