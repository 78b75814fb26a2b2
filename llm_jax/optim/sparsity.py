"""Pruning by magnitude: the smallest weights of each kernel are 0, at once or more and more of them during training.

Unstructured: a share of all weights of each matrix (Han et al. 2015, arXiv:1506.02626). N:M: of every M consecutive
inputs of an output all but N (Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks", arXiv:2104.08378). What
is pruned are the kernels of stacked layers: not embeddings, output head, norms or biases.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from llm_jax.core import tree
from llm_jax.core.table import UserError
from llm_jax.core.types import Array, Params
from llm_jax.optim.masks import STACKED, Layout, layout


@dataclass(frozen=True)
class Sparsity:
    """share: of the weights of a block that are 0. block: M consecutive inputs, None for a whole matrix."""

    share: float
    block: int | None = None

    def zeros(self, size: int) -> int:
        """Zeros among the `size` weights of a block."""
        return round(self.share * size)


def parse(text: str, key: str) -> Sparsity:
    """Return the sparsity of a text: "0.5", a share of each matrix, or "2:4", so many kept of so many inputs.

    Raises:
        UserError: it is neither; the message names `key`.
    """
    kept = re.fullmatch(r"(\d+):(\d+)", text)
    if kept and 0 < int(kept[1]) < int(kept[2]):
        return Sparsity(1 - int(kept[1]) / int(kept[2]), int(kept[2]))
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise UserError(f"{key}={text!r} must be a share above 0 and below 1, such as 0.5, or N:M with N < M, as 2:4")
    return Sparsity(share)


def prunable(shapes: Mapping[str, tuple[int, ...]], sparsity: Sparsity) -> dict[str, Layout]:
    """Return the layouts of the kernels that are pruned, by path.

    Raises:
        UserError: there are none, or the inputs of one are no whole blocks.
    """
    found = {path: layout(path, shape) for path, shape in shapes.items() if STACKED.search(path)}
    found = {path: form for path, form in found.items() if form.is_matrix}
    if not found:
        raise UserError("pruning is of the kernels of stacked layers, and this model has none")
    for path, form in found.items():
        inputs = form.sizes(shapes[path])[0]
        if sparsity.block and inputs % sparsity.block:
            raise UserError(f"{path} has {inputs} inputs, which are no blocks of {sparsity.block}; try a share, as 0.5")
    return found


def mask(kernel: Array, form: Layout, sparsity: Sparsity, progress: Array | float = 1.0) -> Array:
    """Return bool, the kernel's shape: False at the smallest magnitudes of each block, the earlier of two equals.

    Args:
        kernel: [*batch, *I, *O].
        form: how it is read.
        sparsity: what to reach.
        progress: how much of that, from 0 to 1; zeros are rounded to whole weights.
    """
    inputs, outputs = form.sizes(kernel.shape)
    rows = jnp.abs(kernel).reshape(-1, inputs, outputs)
    size = sparsity.block or inputs * outputs
    if sparsity.block:
        rows = jnp.swapaxes(rows, 1, 2)  # blocks lie along the inputs of each output
    ranks = jnp.argsort(jnp.argsort(rows.reshape(-1, size), axis=1), axis=1)
    gone = jnp.round(sparsity.zeros(size) * jnp.asarray(progress)).astype(jnp.int32)
    kept = (ranks >= gone).reshape(rows.shape)
    return (jnp.swapaxes(kept, 1, 2) if sparsity.block else kept).reshape(kernel.shape)


def prune(params: Params, sparsity: Sparsity) -> Params:
    """Return the parameters with the smallest weights of each kernel 0."""
    leaves = tree.flatten(params)
    forms = prunable({path: leaf.shape for path, leaf in leaves.items()}, sparsity)
    return tree.unflatten(
        {p: jnp.where(mask(x, forms[p], sparsity), x, 0) if p in forms else x for p, x in leaves.items()}
    )


@dataclass(frozen=True)
class Gradual:
    """When weights are pruned: at step `begin` (counted from 1) and every `every` steps, all of them by step `end`.

    The share that is 0 goes as 1 - (1 - x)^3 of the way x: fast while much is redundant (Zhu & Gupta 2017, "To prune,
    or not to prune", arXiv:1710.01878, section 3).
    """

    begin: int
    end: int
    every: int

    def progress(self, step: Array) -> Array:
        """Return float32 in [0, 1]: how much of the sparsity there is after the last pruning up to `step`."""
        last = self.begin + (step - self.begin) // self.every * self.every
        last = jnp.where(step >= self.end, self.end, last)
        x = jnp.clip((last - self.begin) / max(1, self.end - self.begin), 0.0, 1.0)
        return jnp.where(step < self.begin, 0.0, jnp.where(self.end <= self.begin, 1.0, 1 - (1 - x) ** 3))

    def due(self, step: Array) -> Array:
        """Whether masks are made anew after `step`."""
        between = (step >= self.begin) & (step < self.end) & ((step - self.begin) % self.every == 0)
        return between | (step == self.end)


class Pruned(NamedTuple):
    """The state of `pruned`: steps taken, the masks by the paths of their kernels, the state of the optimizer."""

    step: Array
    masks: Any
    inner: Any


def pruned(tx: optax.GradientTransformation, sparsity: Sparsity, when: Gradual) -> optax.GradientTransformation:
    """Return `tx` on the weights that are left: what is pruned is exactly 0 after the step, and stays so.

    Gradients of pruned weights are 0 before `tx` sees them, so that neither moments nor norms have a part of them.
    """

    def init(params: Params) -> Pruned:
        leaves = tree.flatten(params)
        forms = prunable({path: leaf.shape for path, leaf in leaves.items()}, sparsity)
        masks = {path: jnp.ones(leaves[path].shape, bool) for path in forms}
        return Pruned(jnp.int32(0), tree.unflatten(masks), tx.init(params))

    def update(updates: Any, state: Pruned, params: Any = None) -> tuple[Any, Pruned]:
        step, masks = state.step + 1, tree.flatten(state.masks)
        updates, inner = tx.update(_masked(updates, masks), state.inner, params)
        old, new = tree.flatten(params), tree.flatten(updates)
        forms = {path: layout(path, old[path].shape) for path in masks}

        def renewed(masks: dict[str, Array]) -> dict[str, Array]:
            left = {path: jnp.where(m, old[path] + new[path], 0) for path, m in masks.items()}
            # what was pruned stays so, also where weights that are 0 by themselves rank below it
            return {path: mask(x, forms[path], sparsity, when.progress(step)) & masks[path] for path, x in left.items()}

        masks = jax.lax.cond(when.due(step), renewed, lambda same: same, masks)
        new |= {path: jnp.where(m, new[path], -old[path]) for path, m in masks.items()}
        structure = jax.tree.structure(updates)
        return jax.tree.unflatten(structure, list(new.values())), Pruned(step, tree.unflatten(masks), inner)

    return optax.GradientTransformation(init, update)


def _masked(updates: Any, masks: Mapping[str, Array]) -> Any:
    return tree.map_with_path(lambda path, u: jnp.where(masks[path], u, 0) if path in masks else u, updates)
