"""DoRA: LoRA changes the direction of each column of a kernel, and a vector of their lengths is learnt beside it.

Liu et al. 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation", arXiv:2402.09353: the kernel is used as
magnitude · (W + change) / |W + change|, whose denominator counts as a constant in the gradient (section 4.3).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from llm_jax.adapt.lora import Axes, Lora
from llm_jax.core.types import Array, Declaration
from llm_jax.nn.initial import ones
from llm_jax.optim.masks import Layout


@dataclass(frozen=True)
class Dora(Lora):
    """How kernels change; the fields are LoRA's."""

    def declarations(self, d: Declaration, layout: Layout) -> dict[str, Declaration]:
        """LoRA's, and `magnitude_scale` [*batch,*O], the lengths, which do not decay."""
        b, i = layout.batch, layout.batch + layout.inputs
        magnitude = Declaration((*d.shape[:b], *d.shape[i:]), (*d.axes[:b], *d.axes[i:]), ones, d.share)
        return {**super().declarations(d, layout), "magnitude_scale": magnitude}

    def begin(self, kernel: Array, parts: Mapping[str, Array], layout: Layout) -> dict[str, Array]:
        """Return the parameters with which the change of `kernel` begins: its own lengths."""
        return {**parts, "magnitude_scale": lengths(kernel, layout)}

    def merge(self, kernel: Array, parts: Mapping[str, Array], layout: Layout, axes: Axes) -> Array:
        """Return the kernel as it is used, float32."""
        changed = super().merge(kernel, parts, layout, axes)
        factor = parts["magnitude_scale"] / jax.lax.stop_gradient(lengths(changed, layout))
        return changed * jnp.expand_dims(factor, _inputs(layout))


def lengths(kernel: Array, layout: Layout) -> Array:
    """Return the Euclidean length [*batch,*O] over the inputs of each output of a kernel."""
    return jnp.sqrt(jnp.sum(jnp.square(kernel), axis=_inputs(layout)))


def _inputs(layout: Layout) -> tuple[int, ...]:
    return tuple(range(layout.batch, layout.batch + layout.inputs))
