"""mxfp4: experts [E,I,O] of 4 bits, as X_blocks [E,O,G,16], with an exponent for 32 inputs in turn, X_scales [E,O,G].

OCP Microscaling Formats (MX), version 1.0, as gpt-oss stores it (arXiv:2508.10925): I = 32 G, two codes (E2M1) a byte,
the lower half first. A weight is its code times two to the power of its scale less 127 (E8M0; 255 is no number).
"""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Float, UInt8

from llm_jax.interop.load import copy
from llm_jax.interop.quantized.unpack import EXPONENTS, Scheme, Shapes, check
from llm_jax.interop.safetensors import Info

BYTES = np.dtype(np.uint8)
HALF = 16  # bytes of a group
_BYTE = np.arange(256, dtype=np.uint8)
PAIRS = np.stack([_BYTE & 15, _BYTE >> 4], axis=-1).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
"""The two numbers in each byte."""


def scheme(said: Mapping[str, Any]) -> Scheme:
    """Return how experts are stored, of the keys of `quantization_config`.

    Raises:
        UserError: a key that is not understood.
    """
    check(said, {})
    return Scheme(
        codes="_blocks",
        scales="_scales",
        stored=lambda info: True,
        scale_dtypes=frozenset({BYTES, EXPONENTS}),
        shapes=_shapes,
        form=f"uint8[experts, outputs, groups, {HALF}]",
        meant=grouped,
    )


def _shapes(info: Info) -> Shapes | None:
    if info.dtype != BYTES or len(info.shape) != 4 or info.shape[3] != HALF:
        return None
    experts, outputs, groups, half = info.shape
    return Shapes(info.shape[:3], (experts, 2 * half * groups, outputs))


def grouped(codes: UInt8[np.ndarray, "E O G 16"], scales: Float[np.ndarray, "E O G"]) -> Float[np.ndarray, "E I O"]:
    """Return the float32 weights, an expert at a time."""
    experts, outputs, groups, half = codes.shape
    out = np.empty((experts, 2 * half * groups, outputs), np.float32)
    for target, code, scale in zip(out, codes, scales, strict=True):
        matrix = np.take(PAIRS, code, axis=0)
        matrix *= scale[..., None, None]
        copy(target, matrix.reshape(outputs, -1).T, 1)
    return out
