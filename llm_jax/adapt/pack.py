"""Kernels kept in few bits: codes in groups along the inputs, each with a scale, unpacked where they are used.

int8 and int4 are equal steps; nf4 has the sixteen levels that a normal distribution fills equally (Dettmers et al.
2023, "QLoRA: Efficient Finetuning of Quantized LLMs", arXiv:2305.14314, appendix E). A scale is the largest magnitude
of its group.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from llm_jax.core import checks
from llm_jax.core.table import UserError, choices
from llm_jax.core.types import Array, Declaration
from llm_jax.nn.initial import zeros
from llm_jax.optim.masks import Layout

NF4 = (
    -1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
)  # fmt: skip
LEVELS = {"int4": tuple(i / 7 for i in range(-7, 8)), "nf4": NF4}
FORMS = ("int8", *LEVELS)


@dataclass(frozen=True)
class Packing:
    """form: one of `FORMS`. group: inputs that share a scale, fewer where the last input dimension does not divide.

    With group None all inputs of an output do: its channel.
    """

    form: str
    group: int | None = 64

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UserError(f"adapt.pack={self.form!r} is not known; choose one of: {choices(FORMS)}")
        checks.positive("adapt", pack_group=self.group)

    def suits(self, d: Declaration, layout: Layout) -> bool:
        """Whether a kernel can be kept so: one of stacked layers, with an even number of inputs for two a byte."""
        return layout.is_matrix and d.axes[:1] == ("layer",) and d.shape[_axis(layout)] % 2 == 0

    def declarations(self, d: Declaration, layout: Layout) -> dict[str, Declaration]:
        """The parameters in a kernel's place: `codes`, one or two a byte, and `scales`, with its logical axes."""
        at, size = _axis(layout), d.shape[_axis(layout)]
        halved, grouped = ((*d.shape[:at], size // n, *d.shape[at + 1 :]) for n in (2, self._width(size)))
        if self.group is None:
            grouped = tuple(1 if i in _inputs(layout) else n for i, n in enumerate(grouped))
        shape, dtype = (d.shape, "int8") if self.form == "int8" else (halved, "uint8")
        few = tuple(
            None if n == 1 or i == at else d.axes[i] for i, n in enumerate(grouped)
        )  # need not divide as inputs
        return {
            "codes": Declaration(shape, d.axes, zeros, d.share, dtype),
            "scales": Declaration(grouped, few, zeros, d.share),
        }

    def pack(self, kernel: Array, layout: Layout) -> dict[str, Array]:
        """Return the codes nearest to a float32 kernel, and their scales."""
        at = _axis(layout)
        groups = self._groups(kernel, at)
        scales = jnp.max(jnp.abs(groups), axis=at + 1)
        if self.group is None:
            scales = jnp.max(scales, axis=_inputs(layout), keepdims=True)
        parts = groups / jnp.expand_dims(jnp.where(scales == 0, 1.0, scales), at + 1)
        if self.form == "int8":
            return {"codes": jnp.round(parts * 127).astype(jnp.int8).reshape(kernel.shape), "scales": scales}
        levels = np.asarray(LEVELS[self.form], np.float32)
        between = (levels[1:] + levels[:-1]) / 2
        codes = sum((parts.reshape(kernel.shape) > middle).astype(jnp.uint8) for middle in between)
        pairs = codes.reshape(*kernel.shape[:at], -1, 2, *kernel.shape[at + 1 :])
        low, high = jnp.take(pairs, 0, axis=at + 1), jnp.take(pairs, 1, axis=at + 1)
        return {"codes": low | (high << 4), "scales": scales}

    def unpack(self, parts: Mapping[str, Array], layout: Layout) -> Array:
        """Return the float32 kernel of codes and scales."""
        at, codes, scales = _axis(layout), parts["codes"], parts["scales"]
        if self.form == "int8":
            values = codes.astype(jnp.float32) / 127
        else:
            pairs = jnp.stack([codes & 15, codes >> 4], axis=at + 1)
            whole = pairs.reshape(*codes.shape[:at], -1, *codes.shape[at + 1 :])
            values = jnp.asarray(LEVELS[self.form], jnp.float32)[whole]
        grouped = values.reshape(*values.shape[:at], scales.shape[at], -1, *values.shape[at + 1 :])
        return (grouped * jnp.expand_dims(scales, at + 1)).reshape(values.shape)

    def _groups(self, kernel: Array, at: int) -> Array:
        size = kernel.shape[at]
        width = self._width(size)
        return kernel.reshape(*kernel.shape[:at], size // width, width, *kernel.shape[at + 1 :])

    def _width(self, size: int) -> int:
        return next(width for width in range(min(self.group or size, size), 0, -1) if size % width == 0)


def _axis(layout: Layout) -> int:
    """The last dimension of the inputs, along which groups lie."""
    return layout.batch + layout.inputs - 1


def _inputs(layout: Layout) -> tuple[int, ...]:
    return tuple(range(layout.batch, layout.batch + layout.inputs))
