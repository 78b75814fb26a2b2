"""What one chip gives, from data sheets; and on CPU, from a matrix product measured here."""

import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp

GB = 1e9


@dataclass(frozen=True)
class Chip:
    """A data sheet, in FLOP/s, bytes and bytes a second.

    flops: dense bf16. hbm: memory. hbm_bandwidth: of it. link: what one chip sends along one axis of the torus (both
    directions together), on GPUs into NVLink. dims: axes of the torus; on GPUs 2 (hosts, GPUs of a host). dcn: what
    one chip sends to other slices or hosts. usable: the share of the memory that a program may have.
    """

    kind: str
    flops: float
    hbm: float
    hbm_bandwidth: float
    link: float
    dims: int
    dcn: float
    usable: float = 0.98


CHIPS = {
    "v4": Chip("TPU v4", 275e12, 32 * GB, 1200 * GB, 90 * GB, 3, 6.25 * GB),
    "v5e": Chip("TPU v5 lite", 197e12, 16 * GB, 819 * GB, 90 * GB, 2, 3.125 * GB),
    "v5p": Chip("TPU v5", 459e12, 95 * GB, 2765 * GB, 180 * GB, 3, 6.25 * GB),
    "v6e": Chip("TPU v6 lite", 918e12, 32 * GB, 1638 * GB, 180 * GB, 2, 12.5 * GB),
    "v7x": Chip("TPU7x", 2307e12, 192 * GB, 7380 * GB, 200 * GB, 3, 12.5 * GB),
    "a100": Chip("NVIDIA A100", 312e12, 80 * GB, 2000 * GB, 300 * GB, 2, 25 * GB, 0.92),
    "h100": Chip("NVIDIA H100", 989e12, 80 * GB, 3350 * GB, 450 * GB, 2, 50 * GB, 0.92),
    "h200": Chip("NVIDIA H200", 989e12, 141 * GB, 4800 * GB, 450 * GB, 2, 50 * GB, 0.92),
    "b200": Chip("NVIDIA B200", 2250e12, 180 * GB, 8000 * GB, 900 * GB, 2, 50 * GB, 0.92),
    "gb200": Chip("NVIDIA GB200", 2450e12, 186 * GB, 8000 * GB, 900 * GB, 2, 50 * GB, 0.92),
}  # fmt: skip
"""FLOP/s, memory and its bandwidth: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}; NVIDIA's data sheets
(B200: HGX). Links: v4 to v6e, "How to Scale Your Model" (jax-ml.github.io/scaling-book/tpus), both ways along one axis;
v7x from its docs; GPUs, half of NVLink's figure, which counts in and out. dcn: the book's 6.25 GB/s a v5p chip and its
ratios for others (v5e 3.125, v6e 12.5); v4 and v7x are taken as v5p and v6e are; GPUs, one NIC of 200 (A100) or
400 Gbit/s each. usable: libtpu allows 15.75 GiB of v5e's 16; GPUs keep memory for contexts and NCCL (our assumption).
"""

PEAK_BF16 = {
    **{chip.kind: chip.flops for chip in CHIPS.values()},
    "TPU v5e": CHIPS["v5e"].flops, "TPU v5p": CHIPS["v5p"].flops, "TPU v6e": CHIPS["v6e"].flops,
}  # fmt: skip
"""bf16 FLOP/s a chip by `device_kind`, under which v5e and v6e have two names each."""


def peak_flops(device: jax.Device, *, size: int = 1024) -> float | None:
    """Return a device's peak FLOP/s: bf16 from its data sheet; on CPU float32, the best of a few products of `size`."""
    if device.platform == "cpu":
        return _measured(size)
    known = [kind for kind in PEAK_BF16 if device.device_kind.startswith(kind)]
    return PEAK_BF16[max(known, key=len)] if known else None


def _measured(size: int) -> float:
    x = jnp.ones((size, size), jnp.float32)
    product = jax.jit(jnp.dot)
    product(x, x).block_until_ready()
    best = 0.0
    for _ in range(4):
        start = time.perf_counter()
        product(x, x).block_until_ready()
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best
