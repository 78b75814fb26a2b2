"""Arrays of awkward bits, the same in every process that asks."""

import ml_dtypes
import numpy as np


def numbers():
    """{name: array}: every kind of bits, numbers that are not numbers and signed zeros included."""
    words = np.random.default_rng(0).integers(0, 2**32, (16, 8), dtype=np.uint32)
    words[0, :5] = 0x80000000, 0x7FA00001, 0xFFC00000, 0x00000001, 0x80018001  # -0, two that are no numbers, subnormal
    return {
        "float32": words.view(np.float32), "bfloat16": words.view(ml_dtypes.bfloat16)[:, :8],
        "int32": words.view(np.int32), "uint8": words.view(np.uint8)[:, :8],
    }  # fmt: skip


def bits(x):
    """The bits of an array as unsigned words."""
    return np.ascontiguousarray(x).view({1: np.uint8, 2: np.uint16, 4: np.uint32}[x.dtype.itemsize])
