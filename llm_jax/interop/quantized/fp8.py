"""fp8: weights [O,I] of 8 bits, X, with a scale for each block of 128 × 128 of them, X_scale_inv.

DeepSeek-V3 (arXiv:2412.19437), section 3.3; the last block of a row or column may be cut. A weight is its code times
its block's scale. Scales are numbers, or exponents of two (E8M0).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Float

from llm_jax.core.table import UserError
from llm_jax.interop.quantized.unpack import EXPONENTS, KEY, Scheme, Shapes, check
from llm_jax.interop.safetensors import Info

CODES = (np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2))
NUMBERS = frozenset({np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), EXPONENTS})
OPTIONS: dict[str, tuple[Any, ...]] = {
    "fmt": ("e4m3", "e5m2"), "activation_scheme": ("dynamic",), "scale_fmt": ("float", "ue8m0"),
    "expert_dtype": ("fp8",), "weight_block_size": (),
}  # fmt: skip


def scheme(said: Mapping[str, Any]) -> Scheme:
    """Return how weights are stored, of the keys of `quantization_config`.

    Raises:
        UserError: a key or value that is not understood.
    """
    check(said, OPTIONS)
    block = said.get("weight_block_size", [128, 128])
    if not isinstance(block, list) or len(block) != 2 or not all(type(n) is int and n > 0 for n in block):
        raise UserError(f"config.json: {KEY}.weight_block_size={block!r} is not two numbers, such as [128, 128]")
    bytes_too = {np.dtype(np.uint8)} if said.get("scale_fmt") == "ue8m0" else set()
    return Scheme(
        codes="",
        scales="_scale_inv",
        stored=lambda info: info.dtype in CODES,
        scale_dtypes=NUMBERS | bytes_too,
        shapes=partial(_shapes, block),
        form="a matrix",
        meant=partial(blockwise, block),
    )


def _shapes(block: list[int], info: Info) -> Shapes | None:
    if len(info.shape) != 2:
        return None
    return Shapes(tuple(-(-size // step) for size, step in zip(info.shape, block, strict=True)), info.shape)


def blockwise(
    block: list[int], codes: Float[np.ndarray, "O I"], scales: Float[np.ndarray, "o i"]
) -> Float[np.ndarray, "O I"]:
    """Return the float32 weights, a row of blocks at a time."""
    rows, columns = block
    out = np.empty(codes.shape, np.float32)
    for i, scale in enumerate(np.repeat(scales, columns, axis=1)[:, : codes.shape[1]]):
        part = slice(i * rows, (i + 1) * rows)
        np.multiply(codes[part].astype(np.float32), scale, out=out[part])
    return out
