r"""Predicted against published: tokens a second and chip of runs whose sizes, batch, length and mesh are public.

    python -m benchmarks.planning > benchmarks/PLANNING.md
    python -m benchmarks.planning --compile=configs/pods/llama3_70b.py --topology=v5p:4x8x8 --depths=20,40,80 \
        >> benchmarks/PLANNING.md

The second form prints how long the step's compiler takes at each depth (it needs requirements-plan.txt).
"""

import argparse
import resource
import statistics
from dataclasses import dataclass

from llm_jax.planning import analytic, roofline, topology
from llm_jax.planning.workload import Workload

V5E, V5P, V4 = (f"MaxText/configs/{chip}/README.md and its scripts" for chip in ("v5e", "v5p", "v4"))
TIERS = "MaxText docs/reference/models/tiering.md; batch: benchmarks/maxtext_trillium_model_configs.py"


@dataclass(frozen=True)
class Model:
    """Sizes: layers, width, heads, heads of keys, head size, hidden width; matrices of an MLP; experts and chosen."""

    L: int
    D: int
    H: int
    G: int
    K: int
    F: int
    V: int = 32000
    matrices: int = 3
    experts: int = 1
    chosen: int = 1
    tied: bool = False


MODELS = {
    "22B": Model(48, 6144, 24, 24, 256, 24576, V=32768, matrices=2, tied=True),
    "52B": Model(32, 12288, 32, 32, 256, 49152, V=32768, matrices=2, tied=True),
    "16B": Model(32, 4096, 64, 64, 128, 28672), "32B": Model(32, 8192, 64, 64, 128, 28672),
    "64B": Model(64, 8192, 64, 64, 128, 28672), "128B": Model(64, 8192, 128, 128, 128, 57344),
    "256B": Model(64, 16384, 128, 128, 128, 57344), "512B": Model(128, 16384, 128, 128, 128, 57344),
    "Llama 2 7B": Model(32, 4096, 32, 32, 128, 11008), "Llama 2 70B": Model(80, 8192, 64, 8, 128, 28672),
    "Llama 3.1 8B": Model(32, 4096, 32, 8, 128, 14336, V=128256),
    "Llama 3.1 70B": Model(80, 8192, 64, 8, 128, 28672, V=128256),
    "Mixtral 8x7B": Model(32, 4096, 32, 8, 128, 14336, experts=8, chosen=2),
}  # fmt: skip
"""16B to 512B are MaxText's `global_parameter_scale`; 22B and 52B its `scale` at 246f0f9 and 0346faf (relu, tied)."""


@dataclass(frozen=True)
class Row:
    """A published run. rows: of a batch, a chip. speed: TFLOP/s a chip with whole attention, or tokens/s a chip."""

    model: str
    slice_: str
    rows: int
    T: int
    tensor: int
    remat: str
    speed: float
    source: str
    slices: int = 1
    unit: str = "TFLOP/s"


ROWS = [
    Row("22B", "v4:4x4x4", 16, 1024, 1, "full", 156, V4), Row("22B", "v4:4x4x4", 16, 1024, 1, "full", 146, V4, 8),
    Row("52B", "v4:4x4x12", 10, 1024, 1, "full", 154, V4),
    Row("16B", "v5e:16x16", 6, 2048, 1, "full", 120, V5E), Row("16B", "v5e:16x16", 6, 2048, 1, "full", 108, V5E, 32),
    Row("32B", "v5e:16x16", 4, 2048, 1, "full", 132, V5E), Row("32B", "v5e:16x16", 4, 2048, 1, "full", 119, V5E, 32),
    Row("64B", "v5e:16x16", 2, 2048, 1, "full", 118, V5E), Row("64B", "v5e:16x16", 2, 2048, 1, "full", 99, V5E, 32),
    Row("128B", "v5e:16x16", 1, 2048, 16, "none", 110, V5E), Row("128B", "v5e:16x16", 1, 2048, 16, "none", 91, V5E, 32),
    Row("32B", "v5p:4x4x4", 7, 2048, 4, "none", 328, V5P), Row("64B", "v5p:4x4x4", 3, 2048, 4, "none", 323, V5P),
    Row("128B", "v5p:4x4x8", 1, 2048, 8, "none", 315, V5P), Row("128B", "v5p:4x8x8", 1, 2048, 8, "none", 316, V5P),
    Row("256B", "v5p:8x8x8", 1, 2048, 8, "none", 308, V5P), Row("512B", "v5p:8x8x8", 2, 2048, 8, "full", 294, V5P),
    Row("Llama 2 70B", "v6e:16x16", 2, 4096, 1, "offload", 900, TIERS, unit="tokens/s"),
    Row("Llama 3.1 8B", "v6e:16x16", 4, 8192, 1, "offload", 7207, TIERS, unit="tokens/s"),
    Row("Llama 3.1 70B", "v6e:16x16", 4, 8192, 1, "offload", 960, TIERS, unit="tokens/s"),
    Row("Mixtral 8x7B", "v6e:16x16", 12, 4096, 1, "offload", 3899, TIERS, unit="tokens/s"),
    Row("Llama 2 7B", "h100:1x8", 4, 4096, 1, "dots", 492, "MaxText/configs/gpu/a3/llama_2_7b"),
]  # fmt: skip


def workload(row: Row) -> Workload:
    """Return the workload of a published run, fully sharded but for its tensor axis; slices are data parallel."""
    m, chips = MODELS[row.model], topology.parse(row.slice_, row.slices)
    attention = 2 * m.D * m.K * (m.H + m.G)
    layer, used = (attention + m.matrices * m.D * m.F * n for n in (m.experts, m.chosen))
    tables = m.V * m.D * (1 if m.tied else 2)
    dense, scores = 6 * (m.L * used + m.V * m.D), 12 * m.L * m.H * m.K * row.T
    mesh = {"slice": row.slices, "fsdp": chips.slice_chips // row.tensor, "tensor": row.tensor}
    return Workload(
        mesh=mesh, batch_size=row.rows * chips.chips, seq_len=row.T, microbatches=1, compute_dtype="bfloat16",
        remat=row.remat, vocab_size=m.V, parameters=m.L * layer + tables, table_parameters=tables, layers=m.L,
        width=m.D, hidden=m.F * m.chosen, kv_width=m.G * m.K, flops_causal=dense + scores / 2,
        flops_full=dense + scores, slots=2.0, tokens=None,
    )  # fmt: skip


def published(row: Row, w: Workload) -> float:
    """Tokens a second and chip."""
    return row.speed * 1e12 / w.flops_full if row.unit == "TFLOP/s" else row.speed


@dataclass(frozen=True)
class Fit:
    """The share of the peak that products reach, and of the time on links that nothing hides."""

    efficiency: float = 1.0
    exposed: float = 0.5


def predicted(row: Row, w: Workload, fit: Fit) -> tuple[float, str]:
    """Tokens a second and chip, and what binds."""
    chips = topology.parse(row.slice_, row.slices)
    found = roofline.times(analytic.work(w, chips), chips, w.mesh, efficiency=fit.efficiency, exposed=fit.exposed)
    return w.tokens_per_step / chips.chips / found.step, found.binds


def error(row: Row, fit: Fit) -> float:
    """Predicted over published, less 1."""
    w = workload(row)
    return predicted(row, w, fit)[0] / published(row, w) - 1


def fitted(rows: list[Row]) -> Fit:
    """The fit of least median error, among efficiencies of 0.50 to 1 and shares of 0 to 1."""
    grid = [Fit(e / 100, x / 10) for e in range(50, 101) for x in range(11)]
    return min(grid, key=lambda fit: statistics.median(abs(error(row, fit)) for row in rows))


def table() -> list[str]:
    """The lines of the document."""
    lines = [
        "# Plans against published runs", "", __doc__.splitlines()[0], "",
        "Predicted by `llm_jax.planning` from formulas (the runs are of other programs, so nothing is compiled).",
        "`bare` is the data sheet's peak, half of the time on links exposed; `ours` what a plan says (efficiency",
        f"{roofline.EFFICIENCY}, exposed {roofline.EXPOSED}, chosen with all runs in sight); `held out` has both",
        "fitted to the runs of the other sources. MFU counts causal attention; published TFLOP/s count whole",
        "attention, converted by tokens.", "",
        "| model | chips | rows x length a chip | tensor | remat | published tok/s/chip | MFU | bare | error |"
        " ours | error | held out | error | binds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    fits = {s: fitted([r for r in ROWS if r.source != s]) for s in {r.source for r in ROWS}}
    errors: dict[str, list[float]] = {"bare": [], "ours": [], "held out": []}
    for row in ROWS:
        w, chips = workload(row), topology.parse(row.slice_, row.slices)
        kinds = {"bare": Fit(), "ours": Fit(roofline.EFFICIENCY, roofline.EXPOSED), "held out": fits[row.source]}
        cells = []
        for name, fit in kinds.items():
            errors[name].append(error(row, fit))
            cells.append(f"{predicted(row, w, fit)[0]:,.0f} | {errors[name][-1]:+.0%}")
        mfu = roofline.utilization(w.flops_causal * published(row, w), 1 / chips.chips, chips)
        lines.append(
            f"| {row.model} | {chips} | {row.rows} x {row.T} | {row.tensor} | {row.remat} | {published(row, w):,.0f} | "
            f"{mfu:.1%} | {' | '.join(cells)} | {predicted(row, w, kinds['ours'])[1]} |"
        )
    return [*lines, "", *_summary(errors, fits)]


def _summary(errors: dict[str, list[float]], fits: dict[str, Fit]) -> list[str]:
    median = {name: statistics.median(map(abs, found)) for name, found in errors.items()}
    worst = {name: max(map(abs, found)) for name, found in errors.items()}
    said = ", ".join(f"{name} {median[name]:.1%} (worst {worst[name]:.0%})" for name in errors)
    alone = statistics.median(abs(error(row, fitted([r for r in ROWS if r is not row]))) for row in ROWS)
    whole = fitted(ROWS)
    least = statistics.median(abs(error(row, whole)) for row in ROWS)
    return [
        f"Median absolute error over {len(ROWS)} runs: {said}. Leaving out one run at a time: {alone:.1%}. The best",
        f"fit to all of them (efficiency {whole.efficiency:.2f}, exposed {whole.exposed:.1f}) has {least:.1%},",
        "which is not a prediction of any. v6e and H100 are predicted far too fast: published runs reach a smaller",
        "share of the peak than the TPUs before them, and one efficiency cannot say both.", "",
        "Efficiency and exposed share as fitted without each source:",
        *(f"- {source}: {fit.efficiency:.2f}, {fit.exposed:.1f}" for source, fit in sorted(fits.items())), "",
        "Model sizes of the scaled runs: MaxText's `get_individual_scales` over width 2048, 16 heads of 128, hidden",
        "7168, 16 layers. `offload`: half of the forward pass is taken to be computed again.",
    ]  # fmt: skip


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
