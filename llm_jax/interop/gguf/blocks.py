"""The numbers of a tensor in a GGUF file, dequantized by the `gguf` package."""

from pathlib import Path

import numpy as np

from llm_jax.interop.gguf.header import Entry, package

SLAB = 1 << 17
"""Elements to dequantize at once: enough for the calls of numpy to cost little and for other threads to run meanwhile,
few enough for a core's own cache. What a block holds does not depend on its neighbours."""


def dequantized(path: Path, entry: Entry) -> np.ndarray:
    """Return what lies at an entry, float32."""
    gguf = package()
    kind = gguf.GGMLQuantizationType(entry.kind)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.fromfile(path, np.uint8, entry.end - entry.begin, offset=entry.begin).reshape(-1, size)
    values = np.empty((len(raw), block), np.float32)
    step = max(1, SLAB // block)
    for i in range(0, len(raw), step):
        slab = raw[i : i + step].reshape(1, -1)
        values[i : i + step] = gguf.dequantize(slab, kind).reshape(-1, block)
    return values.reshape(entry.shape)
