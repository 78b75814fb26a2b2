"""Published training runs whose model, batch, length and mesh are public: what plans are compared with."""

import math
from dataclasses import dataclass

from llm_jax.planning import topology
from llm_jax.planning.workload import Workload

V5E, V5P, V4 = (f"MaxText/configs/{chip}/README.md and its scripts" for chip in ("v5e", "v5p", "v4"))
TIERS = "MaxText docs/reference/models/tiering.md; batch: benchmarks/maxtext_trillium_model_configs.py"
A3 = "MaxText/configs/gpu/a3/llama_2_7b"
TOOLBOX = "NVIDIA/JAX-Toolbox docs/frameworks/maxtext/README.md"
FOUNDRY = "mosaicml/llm-foundry scripts/train/benchmarking/README.md"
TITAN = "pytorch/torchtitan benchmarks/llama3_h100_202412, docs/performance.md, docs/mxfp8.md"
DGXC_MAXTEXT = "NVIDIA/dgxc-benchmarking maxtext/README_70b.md and configure.sh"
DGXC_NEMO = "NVIDIA/dgxc-benchmarking llama3.1/README_8b.md and README.md, nemotron/README.md"


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


def mpt(L: int, D: int, H: int) -> Model:
    """A model of llm-foundry's table."""
    return Model(L, D, H, H, D // H, 4 * D, V=50368, matrices=2, tied=True)


MODELS = {
    "22B": Model(48, 6144, 24, 24, 256, 24576, V=32768, matrices=2, tied=True),
    "52B": Model(32, 12288, 32, 32, 256, 49152, V=32768, matrices=2, tied=True),
    "16B": Model(32, 4096, 64, 64, 128, 28672), "32B": Model(32, 8192, 64, 64, 128, 28672),
    "64B": Model(64, 8192, 64, 64, 128, 28672), "128B": Model(64, 8192, 128, 128, 128, 57344),
    "256B": Model(64, 16384, 128, 128, 128, 57344), "512B": Model(128, 16384, 128, 128, 128, 57344),
    "Llama 2 7B": Model(32, 4096, 32, 32, 128, 11008), "Llama 2 13B": Model(40, 5120, 40, 40, 128, 13824),
    "Llama 2 70B": Model(80, 8192, 64, 8, 128, 28672),
    "Llama 3.1 8B": Model(32, 4096, 32, 8, 128, 14336, V=128256),
    "Llama 3.1 70B": Model(80, 8192, 64, 8, 128, 28672, V=128256),
    "Llama 3.1 405B": Model(126, 16384, 128, 8, 128, 53248, V=128256),
    "Mixtral 8x7B": Model(32, 4096, 32, 8, 128, 14336, experts=8, chosen=2),
    "Nemotron 4 15B": Model(32, 6144, 48, 8, 128, 24576, V=256000, matrices=2),
    "Nemotron 4 340B": Model(96, 18432, 96, 8, 192, 73728, V=256000, matrices=2),
    "MPT 1B": mpt(24, 2048, 16), "MPT 3B": mpt(32, 2560, 20), "MPT 7B": mpt(32, 4096, 32),
    "MPT 13B": mpt(40, 5120, 40), "MPT 30B": mpt(48, 7168, 56), "MPT 70B": mpt(80, 8192, 64),
}  # fmt: skip
"""16B to 512B are MaxText's `global_parameter_scale`; 22B and 52B its `scale` at 246f0f9 and 0346faf (relu, tied)."""


@dataclass(frozen=True)
class Row:
    """A published run in bfloat16. rows: of a batch, a chip.

    mesh: axes beside `fsdp`, or `data` for optimizer states alone split, which take the rest. speed: TFLOP/s a chip
    with whole attention, or tokens/s a chip. parts: microbatches, each of which gathers the parameters. flow:
    microbatches and repeats of a pipeline.
    """

    model: str
    slice_: str
    rows: float
    T: int
    mesh: str
    remat: str
    speed: float
    source: str
    slices: int = 1
    unit: str = "tokens/s"
    parts: int = 1
    flow: tuple[int, int] = (1, 1)


def tpu(
    model: str, slice_: str, rows: int, T: int, mesh: str, remat: str, speed: float, source: str, slices: int = 1
) -> Row:
    """A run whose speed is stated in TFLOP/s."""
    return Row(model, slice_, rows, T, mesh, remat, speed, source, slices, unit="TFLOP/s")


def foundry(model: str, slice_: str, rows: int, T: int, remat: str, speed: float, parts: int = 1) -> Row:
    """A run of llm-foundry: rows are those of a microbatch."""
    return Row(model, slice_, rows * parts, T, "", remat, speed, FOUNDRY, parts=parts)


ROWS = [
    tpu("22B", "v4:4x4x4", 16, 1024, "", "full", 156, V4), tpu("22B", "v4:4x4x4", 16, 1024, "", "full", 146, V4, 8),
    tpu("52B", "v4:4x4x12", 10, 1024, "", "full", 154, V4),
    tpu("16B", "v5e:16x16", 6, 2048, "", "full", 120, V5E), tpu("16B", "v5e:16x16", 6, 2048, "", "full", 108, V5E, 32),
    tpu("32B", "v5e:16x16", 4, 2048, "", "full", 132, V5E), tpu("32B", "v5e:16x16", 4, 2048, "", "full", 119, V5E, 32),
    tpu("64B", "v5e:16x16", 2, 2048, "", "full", 118, V5E), tpu("64B", "v5e:16x16", 2, 2048, "", "full", 99, V5E, 32),
    tpu("128B", "v5e:16x16", 1, 2048, "tensor=16", "none", 110, V5E),
    tpu("128B", "v5e:16x16", 1, 2048, "tensor=16", "none", 91, V5E, 32),
    tpu("32B", "v5p:4x4x4", 7, 2048, "tensor=4", "none", 328, V5P),
    tpu("64B", "v5p:4x4x4", 3, 2048, "tensor=4", "none", 323, V5P),
    tpu("128B", "v5p:4x4x8", 1, 2048, "tensor=8", "none", 315, V5P),
    tpu("128B", "v5p:4x8x8", 1, 2048, "tensor=8", "none", 316, V5P),
    tpu("256B", "v5p:8x8x8", 1, 2048, "tensor=8", "none", 308, V5P),
    tpu("512B", "v5p:8x8x8", 2, 2048, "tensor=8", "full", 294, V5P),
    Row("Llama 2 70B", "v6e:16x16", 2, 4096, "", "offload", 900, TIERS),
    Row("Llama 3.1 8B", "v6e:16x16", 4, 8192, "", "offload", 7207, TIERS),
    Row("Llama 3.1 70B", "v6e:16x16", 4, 8192, "", "offload", 960, TIERS),
    Row("Mixtral 8x7B", "v6e:16x16", 12, 4096, "", "offload", 3899, TIERS),
    Row("Llama 3.1 8B", "a100:8x8", 1, 8192, "", "dots", 2973, TITAN),
    Row("Llama 3.1 70B", "a100:8x8", 1, 8192, "", "full", 331, TITAN),
    Row("Llama 2 13B", "a100:8x8", 2, 4096, "", "none", 2162, TITAN),
    Row("Llama 2 70B", "a100:8x8", 2, 4096, "", "full", 353, TITAN),
    foundry("MPT 1B", "a100:1x8", 14, 2048, "none", 20513, 4),
    foundry("MPT 3B", "a100:1x8", 10, 2048, "none", 10811, 2),
    foundry("MPT 7B", "a100:1x8", 6, 2048, "none", 4641, 2), foundry("MPT 7B", "a100:1x8", 8, 8192, "full", 3206, 2),
    foundry("MPT 13B", "a100:1x8", 2, 2048, "none", 2262, 3), foundry("MPT 30B", "a100:1x8", 3, 2048, "full", 916, 21),
    foundry("MPT 70B", "a100:8x8", 8, 2048, "full", 410, 4),
    tpu("Llama 2 7B", "h100:1x8", 4, 4096, "", "dots", 492, A3),
    Row("Llama 2 7B", "h100:1x8", 2, 4096, "", "dots", 22.19 * 4096 / 8, TOOLBOX),
    Row("Llama 2 70B", "h100:8x8", 2, 4096, "", "query,key,value", 74909 / 64, DGXC_MAXTEXT),
    Row("Llama 2 70B", "h100:32x8", 2, 4096, "", "query,key,value", 293185 / 256, DGXC_MAXTEXT),
    Row("Llama 2 70B", "h100:256x8", 2, 4096, "data=16", "query,key,value", 2374358 / 2048, DGXC_MAXTEXT),
    Row("Llama 3.1 8B", "h100:1x8", 16, 8192, "data=4 context=2", "none", 81222 / 8, DGXC_NEMO),
    Row("Llama 3.1 8B", "h100:16x8", 16, 8192, "data=64 context=2", "none", 1280704 / 128, DGXC_NEMO),
    Row("Nemotron 4 15B", "h100:2x8", 4, 4096, "data=8 tensor=2", "none", 95463 / 16, DGXC_NEMO),
    Row("Nemotron 4 340B", "h100:32x8", 0.25, 4096, "data=4 tensor=8 stage=8", "none", 56913 / 256, DGXC_NEMO,
        flow=(16, 12)),
    Row("Llama 3.1 405B", "h100:64x8", 0.5, 8192, "data=4 tensor=8 context=2 stage=8", "none", 105863 / 512, DGXC_NEMO,
        flow=(64, 8)),
    Row("Llama 3.1 8B", "h100:1x8", 2, 8192, "", "dots", 6667, TITAN),
    Row("Llama 3.1 8B", "h100:16x8", 2, 8192, "", "dots", 6514, TITAN),
    foundry("MPT 1B", "h100:1x8", 14, 2048, "none", 45455), foundry("MPT 3B", "h100:8x8", 6, 2048, "none", 22525, 3),
    foundry("MPT 7B", "h100:1x8", 6, 2048, "none", 10643), foundry("MPT 7B", "h100:1x8", 8, 8192, "full", 6935, 2),
    foundry("MPT 13B", "h100:8x8", 2, 2048, "none", 4800), foundry("MPT 30B", "h100:4x8", 14, 2048, "full", 2308, 3),
    foundry("MPT 70B", "h100:8x8", 8, 2048, "full", 1039, 4),
    Row("Llama 3.1 8B", "b200:1x8", 1, 8192, "", "dots", 8307.5, TITAN),
    Row("Llama 3.1 405B", "gb200:2x64", 0.5, 8192, "data=2 tensor=4 context=2 stage=8", "none", 56092 / 128, DGXC_NEMO,
        flow=(32, 8)),
    Row("Nemotron 4 340B", "gb200:2x64", 4, 4096, "data=4 tensor=8 stage=4", "none", 64211 / 128, DGXC_NEMO,
        flow=(128, 12)),
    Row("Nemotron 4 340B", "gb200:2x64", 0.25, 4096, "data=4 tensor=8 stage=4", "none", 59877 / 128, DGXC_NEMO,
        flow=(8, 12)),
]  # fmt: skip
"""torchtitan's H100s are held to 500 W and have slower memory, its B200s are held to less than their 1 kW (no figure).
GB200s are counted as hosts of 64 that NVLink joins, out of 72."""


ORDER = ("slice", "stage", "data", "fsdp", "context", "tensor")
"""From the outermost axis to that of nearest neighbours, as Megatron and MaxText lay out their devices."""


def workload(row: Row) -> Workload:
    """Return the workload of a published run; slices are data parallel."""
    m, chips = MODELS[row.model], topology.parse(row.slice_, row.slices)
    attention = 2 * m.D * m.K * (m.H + m.G)
    layer, used = (attention + m.matrices * m.D * m.F * n for n in (m.experts, m.chosen))
    tables = m.V * m.D * (1 if m.tied else 2)
    dense, scores = 6 * (m.L * used + m.V * m.D), 12 * m.L * m.H * m.K * row.T
    sizes = {axis: int(n) for axis, n in (word.split("=") for word in row.mesh.split())}
    sizes |= {"slice": row.slices, "fsdp": chips.slice_chips // math.prod(sizes.values())}
    flow, repeats = row.flow
    return Workload(
        mesh={axis: sizes[axis] for axis in ORDER if axis in sizes}, batch_size=round(row.rows * chips.chips),
        seq_len=row.T, microbatches=row.parts, compute_dtype="bfloat16", remat=row.remat, vocab_size=m.V,
        parameters=m.L * layer + tables, table_parameters=tables, layers=m.L, width=m.D, hidden=m.F * m.chosen,
        kv_width=m.G * m.K, flops_causal=dense + scores / 2, flops_full=dense + scores, slots=2.0, tokens=None,
        pipeline_microbatches=flow if "stage" in sizes else None, pipeline_repeats=repeats,
    )  # fmt: skip


def published(row: Row, w: Workload) -> float:
    """Tokens a second and chip."""
    return row.speed * 1e12 / w.flops_full if row.unit == "TFLOP/s" else row.speed
