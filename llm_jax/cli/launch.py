"""launch: train elsewhere, or in several processes here; or print what would be done."""

import dataclasses
import json
import shlex
import signal
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from llm_jax.cli.flags import Parser, add_workdir
from llm_jax.core.table import UserError, choices, lookup, nearest
from llm_jax.launch import TARGETS
from llm_jax.launch.execute import Patience
from llm_jax.launch.job import Command, Job, Plan, Slices, filled, named

PATIENCE = Patience()
PASSED = ("allow_config_change", "no_huge_pages")  # flags of `train`


def run(arguments: Sequence[str]) -> int:
    """Launch a run, attach to one that is there, end it, or print what would be done."""
    target = _target(arguments)
    section_fields = _fields(target)
    flags, overrides = _parser(target, section_fields).read(arguments)
    given = [(f"launch.{target}.{n}", v) for n in section_fields if (v := getattr(flags, n)) is not None]
    if flags.restarts is not None:
        given.append(("launch.restarts", flags.restarts))
    from llm_jax.run.config import construct, load_recipe, resolve
    from llm_jax.run.targets import Launch

    config = resolve(load_recipe(flags.config), [*overrides, *given])
    settings: Launch = construct(Launch, config.values["launch"])
    slices = _slices(flags, target, config.values["mesh"])
    passed = [f"--config.{key}={value}" for key, value in overrides]
    passed += [f"--{name}" for name in PASSED if getattr(flags, name)]
    job = Job(named(flags.name, flags.workdir), flags.config, flags.workdir, tuple(passed), slices, settings.restarts)
    if target == "local":
        return _here(job, settings.local, flags)
    section, missing = filled(getattr(settings, target), _required(target, slices))
    plan: Plan = lookup(TARGETS, target, "--on")(job, section)
    if flags.dry_run:
        print(shown(plan.commands()))
        return 0
    if missing:
        lines = "\n".join(f"  --{name}=… or --config.launch.{target}.{name}=…" for name in missing)
        raise UserError(f"--on={target} needs what neither the command nor the recipe's `launch` says:\n{lines}")
    return _there(plan, job.name, flags)


def _target(arguments: Sequence[str]) -> str:
    """Return what --on says; the other flags depend on it."""
    words = list(arguments)
    said = [word.partition("=")[2] for word in words if word.startswith("--on=")]
    said += [after for word, after in pairwise(words) if word == "--on"]
    if said and said[0] not in TARGETS:
        raise UserError(f"--on={said[0]} is not a target; choose of {choices(TARGETS)}{nearest(said[0], TARGETS)}")
    return said[0] if said else "local"


def _fields(target: str) -> dict[str, str]:
    """The settings of a target that are flags too, with their defaults in words."""
    from llm_jax.run import targets

    cls = {"local": targets.Local, "slurm": targets.Slurm, "tpu_vm": targets.TpuVm, "gke": targets.Gke}[target]
    return {f.name: f"config.launch.{target}.{f.name} (default: {f.default})" for f in dataclasses.fields(cls)}


def _parser(target: str, fields: dict[str, str]) -> Parser:
    parser = Parser("launch", "Train elsewhere, or in several processes here. --on=TARGET --help lists its flags.")
    add = parser.add_argument
    add("--config", required=True, help="configs/RECIPE.py[:argument]; --config.a.b=value is passed on to train")
    add("--on", required=True, help=f"where: {choices(TARGETS)}")
    add_workdir(parser)
    add("--topology", help="chip:dimensions of a slice, as v5e:16x16; GPUs as hosts x GPUs, h100:2x8; by default "
        "that of the plan saved beside the recipe")  # fmt: skip
    add("--slices", type=int, default=None, help="how many such slices (mesh.slice)")
    add("--name", help="of the job; by default made of the workdir's")
    add("--restarts", help="how often it is started again after a preemption or a crash (config.launch.restarts)")
    add("--dry_run", action="store_true", help="print what would be done, and do nothing")
    add("--stop", action="store_true", help="end the job, and what it costs")
    for name in PASSED:
        add(f"--{name}", action="store_true", help="as of train")
    for name, what in fields.items():
        add(f"--{name}", help=what)
    return parser


def _required(target: str, slices: Slices | None) -> Sequence[str]:
    required: Sequence[str] = lookup({target: f"llm_jax.launch.{target}:REQUIRED"}, target, "--on")
    return [name for name in required if not (name == "nodes" and slices is not None)]


def _slices(flags: Any, target: str, mesh: dict[str, Any]) -> Slices | None:
    """Return the slices of --topology, or of the plan beside the recipe; the recipe's mesh must fit on them."""
    text = flags.topology
    saved = Path(flags.config.partition(":")[0]).with_suffix(".json")
    if text is None and target in ("tpu_vm", "gke") and saved.is_file():
        text = json.loads(saved.read_text()).get("topology")
    if text is None:
        if flags.slices is not None:
            raise UserError("--slices counts slices of a --topology; give one")
        return None
    from llm_jax.mesh.plan import AXES, mesh_shape
    from llm_jax.planning import topology

    count, _, one = text.rpartition(" x ")  # as plans of several slices name theirs
    parsed = topology.parse(one, flags.slices or int(count or 1))
    sizes = {axis: mesh[axis] for axis in AXES if axis in mesh}
    if sizes.get("slice", 1) != parsed.slices:
        raise UserError(
            f"mesh.slice={sizes.get('slice', 1)} must be the number of slices, {parsed.slices}: "
            f"add --config.mesh.slice={parsed.slices}"
        )
    mesh_shape(sizes, parsed.devices)
    return Slices(parsed.chip_name, parsed.dims, parsed.slices)


def _here(job: Job, section: Any, flags: Any) -> int:
    from llm_jax.launch import local, supervise

    if flags.stop:
        raise UserError("--stop is for jobs elsewhere; a run on this machine ends by Ctrl-C or SIGTERM to its launcher")
    if flags.dry_run:
        print(shown(local.commands(job, section)))
        return 0

    def commands(port: str) -> list[Command]:
        return local.commands(job, section, sys.executable, port)

    return supervise.supervise(commands, job.workdir, job.restarts, PATIENCE, _say)


def _there(plan: Plan, name: str, flags: Any) -> int:
    from llm_jax.launch import drive

    def leave(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, leave)
    try:
        return (drive.stop if flags.stop else drive.drive)(plan, name, PATIENCE, _say)
    except KeyboardInterrupt:
        _say(f"left; {name} goes on. The same command attaches to it again, and with --stop it ends it")
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


def shown(commands: Sequence[Command]) -> str:
    """The commands as a shell would take them, each with what it is for and what it reads."""
    blocks = []
    for command in commands:
        words = " ".join([*(f"{name}={shlex.quote(value)}" for name, value in command.env), shlex.join(command.argv)])
        text = f"# {command.why}\n{words}"
        blocks.append(text if command.stdin is None else f"{text} <<'END'\n{command.stdin.rstrip()}\nEND")
    return "\n\n".join(blocks)


def _say(text: str) -> None:
    print(f"llm_jax launch: {text}", flush=True)
