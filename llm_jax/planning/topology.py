"""Names of slices, such as "v5e:16x16", and meshes over them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_jax.core.table import UserError, choices, nearest
from llm_jax.cost.chips import CHIPS, Chip
from llm_jax.mesh.plan import AXES

LIBTPU = {"v4": "v4", "v5e": "v5e", "v5p": "v5p", "v6e": "v6e", "v7x": "tpu7x"}
DEVICES_PER_CHIP = {"v7x": 2}
FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
LARGEST = {"v4": 4096, "v5e": 256, "v5p": 6144, "v6e": 256, "v7x": 9216}
"""Slices that can be had: of v5e and v6e those of `FLAT`, of the others tori of 4x4x4 cubes, or parts of one; chips of
the largest (docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x})."""


@dataclass(frozen=True)
class Topology:
    """`slices` equal slices of `dims` chips of a kind; on GPUs dims are (hosts, GPUs of a host)."""

    chip_name: str
    dims: tuple[int, ...]
    slices: int = 1

    @property
    def chip(self) -> Chip:
        """Its data sheet."""
        return CHIPS[self.chip_name]

    @property
    def slice_chips(self) -> int:
        """Chips of one slice."""
        return math.prod(self.dims)

    @property
    def chips(self) -> int:
        """Chips of all slices."""
        return self.slice_chips * self.slices

    @property
    def devices(self) -> int:
        """What jax calls devices: as many as chips, but two of a chip of v7x."""
        return self.chips * DEVICES_PER_CHIP.get(self.chip_name, 1)

    def __str__(self) -> str:
        name = f"{self.chip_name}:{'x'.join(map(str, self.dims))}"
        return name if self.slices == 1 else f"{self.slices} x {name}"


def parse(text: str, slices: int = 1) -> Topology:
    """Read "v5e:16x16", "v5p:4x4x8", "h100:2x8" (hosts x GPUs of a host).

    Raises:
        UserError: an unknown chip, or dimensions that it does not have.
    """
    match = re.fullmatch(r"([a-z0-9]+):(\d+(?:x\d+)*)", text.lower())
    if not match:
        raise UserError(f"--topology={text!r} is not a topology; write chip:dimensions, such as v5e:16x16 or h100:2x8")
    name, dims = match[1], tuple(int(n) for n in match[2].split("x"))
    if name not in CHIPS:
        raise UserError(f"--topology={text}: {name!r} is not known; choose of {choices(CHIPS)}{nearest(name, CHIPS)}")
    wanted = CHIPS[name].dims
    if len(dims) != wanted or min(dims) < 1:
        form = "x".join("nmk"[:wanted])
        raise UserError(f"--topology={text}: {name} has {wanted} dimensions above zero; write {name}:{form}")
    if name in LARGEST and not _exists(name, dims):
        known = ", ".join("x".join(map(str, d)) for d in FLAT)
        each = f"one of {known}" if wanted == 2 else "1, 2 or a multiple of 4 along each axis"
        raise UserError(
            f"--topology={text}: there is no such slice of {name}: its dimensions are {each}, and it has at most "
            f"{LARGEST[name]} chips; take more of them with --slices"
        )
    if slices < 1:
        raise UserError(f"--slices={slices} must be above zero")
    return Topology(name, dims, slices)


def _exists(name: str, dims: tuple[int, ...]) -> bool:
    if CHIPS[name].dims == 2:
        return tuple(sorted(dims)) in FLAT
    return all(n in (1, 2) or n % 4 == 0 for n in dims) and math.prod(dims) <= LARGEST[name]


def mesh_devices(topology: Topology, shape: Mapping[str, int], devices: list[Any]) -> Any:
    """Return the devices as an array of the mesh's `shape`, neighbours on the inner axes; slices on the outer one.

    Raises:
        UserError: when `mesh.slice` is not the number of slices.
    """
    from jax.experimental import mesh_utils

    dims = [shape.get(a, 1) for a in AXES]
    if topology.slices > 1:
        if dims[0] != topology.slices:
            raise UserError(f"mesh.slice={dims[0]} must be --slices={topology.slices}: data parallel between slices")
        outer = [dims[0]] + [1] * (len(dims) - 1)
        inner = [1, *dims[1:]]
        return mesh_utils.create_hybrid_device_mesh(inner, outer, devices=devices, allow_split_physical_axes=True)
    return mesh_utils.create_device_mesh(dims, devices=devices, allow_split_physical_axes=True)


def _target(name: str, cores: int, memory: int, bandwidth: int, l2: int, clock: float, capability: int) -> str:
    return (
        "gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 "
        f"shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: {cores} fpus_per_core: 128 "
        "block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 "
        f"memory_bandwidth: {bandwidth} l2_cache_size: {l2} clock_rate_ghz: {clock} device_memory_size: {memory} "
        f"shared_memory_per_block_optin: 232448 cuda_compute_capability {{ major: {capability} }} "
        "registers_per_core_limit: 65536 registers_per_block_limit: 65536 } "
        'platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } runtime_version { major: 12 minor: 8 patch: 0 } '
        f'device_description_str: "{name}"'
    )


TARGETS = {
    "h100": _target("NVIDIA H100 80GB HBM3", 132, 84_929_347_584, 3_352_320_000_000, 52_428_800, 1.98, 9),
    "h200": _target("NVIDIA H200", 132, 150_000_000_000, 4_800_000_000_000, 52_428_800, 1.98, 9),
    "b200": _target("NVIDIA B200", 148, 191_000_000_000, 8_000_000_000_000, 132_644_864, 1.965, 10),
}
"""GPUs as XLA's compiler wants them described when none is there (fields of its GpuTargetConfigProto)."""
FLAGS = "--xla_gpu_enable_triton_gemm=false --xla_gpu_autotune_level=0"  # autotuning measures, on a device
