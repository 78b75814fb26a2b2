"""A plan in words, and as a picture of where the time goes."""

import importlib.util
from pathlib import Path
from typing import Any

from llm_jax.core.table import UserError

PICTURES = (".png", ".svg", ".pdf")


def text(plan: dict[str, Any]) -> str:
    """Return what `plan` prints."""
    return "\n".join([*_memory(plan), "", *_time(plan), "", *_training(plan)])


def line(plan: dict[str, Any]) -> str:
    """Return a plan in one line of a ranking."""
    mesh = " ".join(f"{a}={n}" for a, n in plan["mesh"].items()) or "one device"
    verdict = "" if plan["fits"] else "  DOES NOT FIT"
    return (
        f"  MFU {plan['mfu_causal']:.1%}  {plan['bytes'] / 1e9:>6.1f} GB  {plan['binds']:<7} {mesh:<28} "
        f"remat={plan['remat']} batch={plan['batch_size']}{verdict}"
    )


def _memory(plan: dict[str, Any]) -> list[str]:
    mesh = " x ".join(f"{a}={n}" for a, n in plan["mesh"].items()) or "one device"
    verdict = "fits" if plan["fits"] else "DOES NOT FIT"
    lines = [
        f"{plan['topology']}: {plan['chips']} chips, {mesh}, remat={plan['remat']}, "
        f"{plan['batch_size']} x {plan['seq_len']} tokens, {plan['parameters']:,} parameters ({plan['source']})",
        f"memory of a chip: {verdict}, {_gb(plan['bytes'])} of {_gb(plan['usable_bytes'])}",
    ]
    lines += [f"  {name:<14} {_gb(size):>10}" for name, size in plan["bytes_by_kind"].items()]
    if plan.get("offload"):
        size = f", {_gb(plan['host_bytes'])} a chip" if "host_bytes" in plan else ""
        lines.append(f"in the host's memory: {', '.join(plan['offload'])}{size}; the time of its link is not counted")
    if plan.get("compiler_error"):
        lines.append(f"  the compiler: {plan['compiler_error'].splitlines()[0][:200]}")
    if plan.get("largest"):
        lines.append("the largest buffers")
        lines += [f"  {_gb(b['bytes']):>10}  {b['type']:<32} {b['from']}" for b in plan["largest"]]
    return lines


def _time(plan: dict[str, Any]) -> list[str]:
    seconds = plan["seconds"]
    low, high = plan["step_bounds_s"]
    lines = [
        f"a step: {plan['step_s']:.3f} s ({low:.3f} if all overlaps, {high:.3f} if nothing); {plan['binds']} binds"
    ]
    counted = f", {plan['product_flops']:.4g} in the program's products" if plan.get("product_flops") else ""
    work = {
        "compute": f"{plan['executed_flops']:.4g} FLOPs a chip at {plan['efficiency']:.0%} of its peak{counted}",
        "hbm": f"{_gb(plan['memory_traffic'])} read and written", "ici": "between chips", "dcn": "between slices",
    }  # fmt: skip
    lines += [f"  {name:<8} {seconds[name]:>9.4f} s  {what}" for name, what in work.items()]
    lines.append("collectives of a step (bytes that a chip sends)")
    lines += [
        f"  {row['kind']:<19} {'+'.join(row['axes']):<12} {_gb(row['sent']):>10}"
        + (f"  in {row['count']}" if row["count"] else "")
        for row in plan["collectives"]
    ] or ["  none"]
    lines.append(
        f"{plan['tokens_per_s']:,.0f} tokens/s ({plan['tokens_per_s_chip']:,.0f} a chip); MFU {plan['mfu_causal']:.1%} "
        f"(6N + causal attention), {plan['mfu_full']:.1%} (6N + all of attention)"
    )
    return lines


def _training(plan: dict[str, Any]) -> list[str]:
    lines, budget, lost = [], plan.get("budget"), plan.get("failures")
    if budget:
        money = f", {budget['money']:,.0f} at {budget['price']:g} a chip-hour" if "money" in budget else ""
        lines.append(
            f"{budget['tokens']:,.0f} tokens: {budget['days']:.2f} days, {budget['chip_hours']:,.0f} chip-hours{money}"
            + ("" if money else " (money: give --price of a chip-hour)")
        )
    if lost:
        lines.append(
            f"failures: one in {lost['mtbf']:.1f} h (of a chip, one in {lost['chip_mtbf']:,.0f} h); save every "
            f"{60 * lost['interval']:.1f} min = {lost['steps_between_saves']} steps; {lost['lost']:.2%} of the time is "
            f"lost, {60 * lost['per_failure']:.0f} min each"
        )
    return lines


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f} GB"


def check_plot(path: str) -> None:
    """Refuse a picture that cannot be drawn, before the compiler is asked.

    Raises:
        UserError: matplotlib is not installed, or the name's ending is no format of pictures.
    """
    if Path(path).suffix not in PICTURES:
        raise UserError(f"--plot={path} does not end in one of {', '.join(PICTURES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("--plot needs matplotlib: pip install -r requirements-plan.txt")


def draw(plan: dict[str, Any], path: str) -> None:
    """Write a picture of the step's four times."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 2.4), layout="constrained")
    names = ["compute", "hbm", "ici", "dcn"]
    axes.barh(names, [plan["seconds"][n] for n in names])
    axes.axvline(plan["step_s"], color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set(xlabel="seconds of a step", title=f"{plan['topology']}: {plan['binds']} binds")
    figure.savefig(path)
    pyplot.close(figure)
