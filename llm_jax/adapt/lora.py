"""LoRA: a frozen kernel W [*I,*O] is used as W + (alpha / R) · down · up, of which only down and up are learnt.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685. The sum is made before the
layers run, so that every family and every kernel can have it, stacked layers and experts included.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from llm_jax.core import checks, keys
from llm_jax.core.types import Array, Declaration, Key
from llm_jax.mesh.place import explicit, place
from llm_jax.nn.initial import zeros
from llm_jax.optim.masks import Layout

Axes = tuple[str | None, ...]


@dataclass(frozen=True)
class Lora:
    """How kernels change.

    alpha: the change is multiplied by alpha / rank, None for alpha = rank. dropout: the share of each kernel's inputs
    that its change does not see in a step; they are the same for all tokens of a batch, as what is added to the kernel
    is (Lin et al. 2024, "LoRA Dropout as a Sparsity Regularizer", arXiv:2404.09610).
    """

    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        checks.positive("adapt", rank=self.rank, alpha=self.alpha)
        checks.fraction("adapt", dropout=self.dropout)

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return (self.rank if self.alpha is None else self.alpha) / self.rank

    def declarations(self, d: Declaration, layout: Layout) -> dict[str, Declaration]:
        """The parameters beside a kernel: `down` [*batch,*I,R], as wide as loralib draws it, and `up` [*batch,R,*O], 0.

        Both have the kernel's logical axes, so that their product lies where the kernel does.
        """
        b, i = layout.batch, layout.batch + layout.inputs
        bound = 1 / math.sqrt(math.prod(d.shape[b:i]))

        def uniform(key: Key, shape: tuple[int, ...]) -> Array:
            return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

        return {
            "down": Declaration((*d.shape[:i], self.rank), (*d.axes[:i], None), uniform, d.share),
            "up": Declaration(
                (*d.shape[:b], self.rank, *d.shape[i:]), (*d.axes[:b], None, *d.axes[i:]), zeros, d.share
            ),
        }

    def begin(self, kernel: Array, parts: Mapping[str, Array], layout: Layout) -> dict[str, Array]:
        """Return the parameters with which the change of `kernel` begins: none at all."""
        return dict(parts)

    def drop(self, parts: Mapping[str, Array], key: Key | None) -> dict[str, Array]:
        """Return the parameters of a change with some inputs dropped; None for no dropout."""
        if key is None or not self.dropout:
            return dict(parts)
        down = parts["down"]
        kept = jax.random.bernoulli(keys.fold(key, "inputs"), 1 - self.dropout, (*down.shape[:-1], 1))
        return {**parts, "down": jnp.where(kept, down / (1 - self.dropout), 0)}

    def merge(self, kernel: Array, parts: Mapping[str, Array], layout: Layout, axes: Axes) -> Array:
        """Return the kernel as it is used, float32."""
        down, up = parts["down"], parts["up"]
        batch = tuple(range(layout.batch))
        dims = (((down.ndim - 1,), (layout.batch,)), (batch, batch))
        change = jax.lax.dot_general(down, up, dims, out_sharding=explicit(*axes, shape=kernel.shape))
        return kernel + self.scale * place(change, *axes)
