"""What one device gives: dense peak FLOP/s from data sheets, and on CPU from a matrix product measured here."""

import time

import jax
import jax.numpy as jnp

PEAK_BF16 = {
    "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5e": 197e12, "TPU v5p": 459e12, "TPU v5": 459e12,
    "TPU v6 lite": 918e12, "TPU v6e": 918e12, "TPU7x": 2307e12,
    "NVIDIA A100": 312e12, "NVIDIA H100": 989e12, "NVIDIA H200": 989e12, "NVIDIA B200": 2250e12,
}  # fmt: skip
"""bf16 FLOP/s a chip, by the start of `device_kind` (vendors' data sheets)."""


def peak_flops(device: jax.Device, *, size: int = 1024) -> float | None:
    """Return a device's peak FLOP/s: bf16 from its data sheet; on CPU float32, the best of a few products of `size`."""
    if device.platform == "cpu":
        return _measured(size)
    known = [peak for kind, peak in PEAK_BF16.items() if device.device_kind.startswith(kind)]
    return known[0] if known else None


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
