"""plan: what a recipe needs and costs on a slice of chips that nobody has rented yet."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_jax.cli.flags import Parser
from llm_jax.core.table import UserError


def run(arguments: Sequence[str]) -> int:
    """Compile the train step for a topology, print the plan and save it."""
    flags, overrides = _parser().read(arguments)
    for name in ("price", "chip_mtbf", "save_seconds", "restart_seconds", "timeout", "compile_best"):
        value = getattr(flags, name)
        if value is not None and not value > 0:
            raise UserError(f"--{name}={value:g} must be above zero")
    if flags.analytic and flags.exact:
        raise UserError("--analytic compiles nothing and --exact compiles in full; leave one of them out")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the compiler of the chips runs in a process of its own
    from llm_jax.planning import estimate, report, topology, workload
    from llm_jax.run.config import load_recipe, resolve

    if flags.plot:
        report.check_plot(flags.plot)
    chosen = topology.parse(flags.topology, flags.slices)
    config = resolve(load_recipe(flags.config), overrides)
    w = workload.of(config, chosen)
    for name in ("out", "plot"):
        _made_room(name, getattr(flags, name))
    if flags.search:
        plan = _search(flags, config, w, chosen)
    elif flags.analytic:
        plan = estimate.by_formula(w, chosen)
    else:
        plan = estimate.by_compiler(config, w, chosen, exact=flags.exact, timeout=flags.timeout)
    if "overrides" not in plan:
        plan = _budgeted(flags, plan, w, chosen)
    print(report.text(plan))
    if flags.out:
        Path(flags.out).write_text(json.dumps({"config": flags.config, **plan}, indent=1) + "\n")
        print(f"saved to {flags.out}")
    if flags.plot:
        report.draw(plan, flags.plot)
    return 0


def _made_room(name: str, path: str | None) -> None:
    """Make the folder of a file that will be written, before the compiler is asked."""
    if path is None:
        return
    folder = Path(path).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--{name}={path}: its folder cannot be made: {error.strerror or error}") from None
    if Path(path).is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"--{name}={path} cannot be written: it is a folder, or in one that is not yours")


def _parser() -> Parser:
    parser = Parser("plan", "Compile a recipe's train step for a slice of chips without one; say what it would cost.")
    add = parser.add_argument
    add("--config", required=True, help="configs/RECIPE.py[:argument]; --config.a.b=value overrides")
    add("--topology", required=True, help="chip:dimensions of a slice, as v5e:16x16; GPUs as hosts x GPUs, h100:2x8")
    add("--slices", type=int, default=1, help="how many such slices (mesh.slice)")
    add("--analytic", action="store_true", help="formulas alone; nothing is compiled")
    add("--exact", action="store_true", help="compile at the compiler's full level, not at O1")
    add("--search", action="store_true", help="rank meshes, remat and batches by formula; compile the best few")
    add("--compile_best", type=int, default=3, help="of --search: how many are compiled")
    add("--price", type=float, default=None, help="of one chip-hour, as your contract has it")
    add("--chip_mtbf", type=float, default=50_000.0, help="hours between failures of one chip")
    add("--save_seconds", type=float, default=10.0, help="in which a checkpoint holds training up")
    add("--restart_seconds", type=float, default=600.0, help="from a failure to the next step")
    add("--timeout", type=float, default=3600.0, help="seconds that a compiler may take")
    add("--out", default=None, help="where the plan is saved as JSON")
    add("--plot", default=None, help="where a picture of the step's times is written (.png, .svg)")
    return parser


def _budgeted(flags: Any, plan: dict[str, Any], w: Any, chosen: Any) -> dict[str, Any]:
    from llm_jax.planning import estimate

    return estimate.with_budget(
        plan, w, chosen, price=flags.price, chip_mtbf=flags.chip_mtbf, save=flags.save_seconds / 3600,
        restart=flags.restart_seconds / 3600,
    )  # fmt: skip


def _search(flags: Any, config: Any, w: Any, chosen: Any) -> dict[str, Any]:
    """Print the ranking, compile the best few, and return the best that fits."""
    from llm_jax.planning import estimate, report, search

    found = search.ranked(w, chosen)
    if not found:
        raise UserError(
            f"no plan of this model fits {chosen}: the smallest needs more than its memory; take more chips, a shorter "
            "data.seq_len or a smaller data.batch_size"
        )
    print(f"{len(found)} plans fit by formula; the first ten")
    for _, plan in found[:10]:
        print(report.line(plan))
    plans = []
    if not flags.analytic:
        print("as compiled")
    for candidate, plan in found[: flags.compile_best]:
        if not flags.analytic:
            plan = estimate.by_compiler(config, candidate, chosen, exact=flags.exact, timeout=flags.timeout)
        plan = _budgeted(flags, plan, candidate, chosen)
        if not flags.analytic:
            print(report.line(plan), flush=True)
        plans.append(plan | {"overrides": search.overrides(candidate)})
    best = min(plans, key=lambda p: (not p["fits"], -p["tokens_per_s"]))
    print("the best: " + " ".join(best["overrides"]) + "\n")
    return best
