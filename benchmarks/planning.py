r"""Predicted against published: tokens a second and chip of runs whose sizes, batch, length and mesh are public.

    python -m benchmarks.planning > benchmarks/PLANNING.md
    python -m benchmarks.planning --compile=configs/pods/llama3_70b.py --topology=v5p:4x8x8 --depths=20,40,80 \
        >> benchmarks/PLANNING.md

The second form prints how long the step's compiler takes at each depth (it needs requirements-plan.txt).
"""

import argparse
import resource
import statistics
from collections.abc import Callable, Iterable
from functools import cache

from benchmarks.published import ROWS, Row, published, workload
from llm_jax.planning import analytic, roofline, topology
from llm_jax.planning.roofline import Fit

GRID = [Fit(e / 100, x / 10) for e in range(50, 101) for x in range(11)]


def chip(row: Row) -> str:
    """The chip that a run was on."""
    return row.slice_.split(":")[0]


def maker(row: Row) -> str:
    """Who makes it."""
    return next(name for name in roofline.FITS if topology.parse(row.slice_).chip.kind.startswith(name))


@cache
def predicted(row: Row, fit: Fit) -> tuple[float, str]:
    """Tokens a second and chip, and what binds."""
    w, chips = workload(row), topology.parse(row.slice_, row.slices)
    found = roofline.times(analytic.work(w, chips), chips, w.mesh, fit)
    return w.tokens_per_step / chips.chips / found.step, found.binds


@cache
def error(row: Row, fit: Fit) -> float:
    """Predicted over published, less 1."""
    return predicted(row, fit)[0] / published(row, workload(row)) - 1


@cache
def fitted(rows: tuple[Row, ...]) -> Fit:
    """The fit of least median error, among efficiencies of 0.50 to 1 and shares of 0 to 1."""
    return min(GRID, key=lambda fit: statistics.median(abs(error(row, fit)) for row in rows))


def of(rows: Iterable[Row]) -> Fit:
    """The fit to some of the runs."""
    return fitted(tuple(rows))


WAYS: dict[str, Callable[[Row], Fit]] = {
    "one for all": lambda row: of(r for r in ROWS if r.source != row.source),
    "ours": lambda row: roofline.FITS[maker(row)],
    "source held out": lambda row: of(r for r in ROWS if maker(r) == maker(row) and r.source != row.source),
    "chip held out": lambda row: of(r for r in ROWS if maker(r) == maker(row) and chip(r) != chip(row)),
}
"""What a run is predicted with. Of the first and the last two the run itself is not in the fit."""


def table() -> list[str]:
    """The lines of the document."""
    ours = "; ".join(f"{name} {fit.efficiency} and {fit.exposed}" for name, fit in roofline.FITS.items())
    lines = [
        "# Plans against published runs", "", __doc__.splitlines()[0], "",
        "Predicted by `llm_jax.planning` from formulas (the runs are of other programs, so nothing is compiled). Two",
        "numbers are fitted: the share of the peak that products reach, and the share of the time on links that",
        "nothing hides.", "",
        "- `one for all`: one pair for every chip, fitted to the runs of other sources: a prediction.",
        f"- `ours`: what a plan says, a pair for each maker ({ours}), chosen with all runs in sight: a fit.",
        "- `source held out`: a pair fitted to the maker's runs of other sources: a prediction.",
        "- `chip held out`: a pair fitted to the maker's other chips: what a chip without any run is to expect.", "",
        "MFU counts causal attention; published TFLOP/s count whole attention, converted by tokens.", "",
        "| model | chips | rows x length a chip | mesh beside fsdp | remat | published tok/s/chip | MFU | "
        + " | ".join(f"{name} | error" for name in WAYS) + " | binds |",
        "|---" * (8 + 2 * len(WAYS)) + "|",
    ]  # fmt: skip
    for row in ROWS:
        w, chips = workload(row), topology.parse(row.slice_, row.slices)
        cells = [f"{predicted(row, way(row))[0]:,.0f} | {error(row, way(row)):+.0%}" for way in WAYS.values()]
        mfu = roofline.utilization(w.flops_causal * published(row, w), 1 / chips.chips, chips)
        lines.append(
            f"| {row.model} | {chips} | {row.rows:g} x {row.T} | {row.mesh} | {row.remat} | {published(row, w):,.0f} | "
            f"{mfu:.1%} | {' | '.join(cells)} | {predicted(row, WAYS['ours'](row))[1]} |"
        )
    return [*lines, "", *_summary()]


def _summary() -> list[str]:
    chips = list(dict.fromkeys(map(chip, ROWS)))
    lines = ["Median absolute error by chip (worst, of all):", ""]
    lines += ["| | runs | " + " | ".join(WAYS) + " |", "|---" * (2 + len(WAYS)) + "|"]
    for name in (*chips, "all"):
        rows = [row for row in ROWS if name in (chip(row), "all")]
        errors = [[abs(error(row, way(row))) for row in rows] for way in WAYS.values()]
        worst = (f" ({max(found):.0%})" if name == "all" else "" for found in errors)
        cells = (f"{statistics.median(found):.1%}{most}" for found, most in zip(errors, worst, strict=True))
        lines.append(f"| {name} | {len(rows)} | {' | '.join(cells)} |")
    each = {name: of(row for row in ROWS if chip(row) == name) for name in chips}
    alone = statistics.median(abs(error(row, each[chip(row)])) for row in ROWS)
    pairs = ", ".join(f"{name} {fit.efficiency:.2f} and {fit.exposed:.1f}" for name, fit in each.items())
    return [
        *lines, "",
        f"A pair for each chip, fitted to its own runs ({pairs}), would have {alone:.1%}, which is no prediction of",
        "any: the pairs of chips with one source say as much of the program as of the chip.", "",
        "Far off: the 8B on B200, which torchtitan ran at less than its rated power (it does not say which) and with",
        "one row a chip; nobody else's B200 in bfloat16 was found, and no H200's at all: published ones are in fp8.",
        "torchtitan's H100s are held to 500 W of 700.", "",
        "Sources, with the pair fitted to the maker's other ones:",
        *(f"- {row.source}: {fit.efficiency:.2f} and {fit.exposed:.1f}" for row in _first_of_each()
          for fit in [WAYS["source held out"](row)]), "",
        "Model sizes of the scaled runs: MaxText's `get_individual_scales` over width 2048, 16 heads of 128, hidden",
        "7168, 16 layers. `offload`: half of the forward pass is taken to be computed again.",
    ]  # fmt: skip


def _first_of_each() -> list[Row]:
    """A run of each source and maker."""
    return list({(row.source, maker(row)): row for row in reversed(ROWS)}.values())[::-1]


def compile_times(config: str, name: str, depths: list[int]) -> None:
    """Print how long the step of a recipe compiles at each depth."""
    from llm_jax.planning import aot
    from llm_jax.planning import workload as workloads
    from llm_jax.run.config import load_recipe, resolve

    chips = topology.parse(name)
    print(f"\n## Compile time of {config} for {chips.chips} chips ({chips}, O1)\n")
    print("| layers | seconds of CPU, whole process | MB of text |\n|---|---|---|")
    for layers in depths:
        chosen = resolve(load_recipe(config), [("model.num_layers", str(layers))])
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        _, text = aot.compiled(chosen, workloads.of(chosen, chips), chips)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"| {layers} | {used:.0f} | {len(text) / 1e6:.1f} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile")
    parser.add_argument("--topology", default="v5p:4x8x8")
    parser.add_argument("--depths", default="20,40,80")
    flags = parser.parse_args()
    if flags.compile:
        compile_times(flags.compile, flags.topology, [int(n) for n in flags.depths.split(",")])
    else:
        print("\n".join(table()))


if __name__ == "__main__":
    main()
