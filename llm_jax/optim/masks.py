"""Which parameters decay, which are frozen, which are matrices: all read from a leaf's path and shape.

Layers are stored stacked, so that a norm's scale is [L, D] and an attention kernel [L, D, H, K]. What counts for an
optimizer is the shape of one layer: `layout` says how many leading axes only enumerate, and how the rest splits
into the inputs and outputs of a linear map.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from llm_jax.core import tree
from llm_jax.core.table import UserError, nearest

STACKED = re.compile(r"(^|/)\w*(blocks|layers)(/|$)")  # a leading axis of layers
EXPERTS = re.compile(r"(^|/)\w*experts(/|$)")  # a further axis of experts
OUTPUT = re.compile(r"(^|/)(o|out|wo|o_proj|out_proj|output)(/|$)")  # [H, K, D]: the last axis alone is the output
VECTOR = re.compile(r"(^|[/_])(bias|scale|beta|gamma|b)$")  # a vector by name, even as [H, K]
FILTER = re.compile(r"(^|/)conv_\w+$")  # a filter a channel, [W, *channels]: it decays, and is no linear map
EMBEDDING = (r"embed", r"(^|/)(wte|wpe|positions?)(/|$)", r"(^|/)(\w+_)?head(/|$)", r"logits")


class Layout(NamedTuple):
    """How a leaf is read: `batch` leading axes that enumerate (layers, experts), then `inputs`, then `outputs` axes.

    `outputs` is 0 for vectors and scalars.
    """

    batch: int
    inputs: int
    outputs: int

    @property
    def is_matrix(self) -> bool:
        return self.outputs > 0

    def sizes(self, shape: Sequence[int]) -> tuple[int, int]:
        """Return (fan in, fan out) of one matrix."""
        inner = self.batch + self.inputs
        return math.prod(shape[self.batch : inner]), math.prod(shape[inner:])


def layout(path: str, shape: Sequence[int]) -> Layout:
    """Return the layout of the leaf at `path`: [L, D, H, K] under "blocks" is L matrices of D by H·K."""
    batch = min(bool(STACKED.search(path)) + bool(EXPERTS.search(path)), len(shape))
    rank = len(shape) - batch
    if rank < 2 or VECTOR.search(path) or FILTER.search(path):
        return Layout(batch, rank, 0)
    inputs = rank - 1 if OUTPUT.search(path) else 1
    return Layout(batch, inputs, rank - inputs)


def depths(params: Any, stacks: Mapping[str, Sequence[int]] | None = None) -> Any:
    """Return the tree that says how far each leaf is from the last layer: 0 there and above, L of embeddings.

    Args:
        params: a tree of arrays, abstract ones included.
        stacks: of each stack of layers by its first name, the number of each of its layers, from 0. By default there
            is one, and numbers count from 0.

    A stacked leaf [L, …] has an array [L, 1, …], all others a number.
    """
    numbers = {name: list(each) for name, each in (stacks or {}).items()}
    leaves = tree.flatten(params)
    layers = 1 + max((max(_numbers(path, leaf, numbers), default=-1) for path, leaf in leaves.items()), default=-1)

    def depth(path: str, leaf: Any) -> Any:
        found = _numbers(path, leaf, numbers)
        if not found:
            return layers if any(re.search(pattern, path) for pattern in EMBEDDING[:2]) else 0
        return (layers - 1 - np.array(found)).reshape(-1, *(1,) * (len(leaf.shape) - 1))

    return tree.map_with_path(depth, params)


def _numbers(path: str, leaf: Any, stacks: Mapping[str, list[int]]) -> list[int]:
    """The numbers of the layers that a leaf holds; none where it is no stack."""
    named = next((stacks[part] for part in path.split("/") if part in stacks), None)
    return named or (list(range(leaf.shape[0])) if STACKED.search(path) else [])


def decay(params: Any, exclude: Sequence[str] | None = None) -> Any:
    """Return the tree of booleans that is True where weight decay acts.

    Args:
        params: a tree of arrays, abstract ones included.
        exclude: None for the usual rule, matrices and filters of convolutions decay (so they do in Mamba's own code),
            and vectors (norms, biases: one axis per layer) do not; or regular expressions, searched in the paths
            "blocks/attention/q/kernel": exactly those leaves do not decay.

    Raises:
        UserError: an expression matches no path.
    """
    if exclude is None:
        return tree.map_with_path(lambda path, leaf: layout(path, leaf.shape).is_matrix or _is_filter(path), params)
    excluded = matching(params, exclude, "optimizer.decay_exclude")
    return tree.map_with_path(lambda _, out: not out, excluded)


def _is_filter(path: str) -> bool:
    return bool(FILTER.search(path)) and not VECTOR.search(path)


def factors(params: Any, groups: Mapping[str, float]) -> Any:
    """Return the tree of the factor of each leaf's group, 1 where it has none.

    Raises:
        UserError: an expression matches no path, or two match one.
    """
    matching(params, list(groups), "optimizer.groups")

    def factor(path: str, _: Any) -> float:
        found = [pattern for pattern in groups if re.search(pattern, path)]
        if len(found) > 1:
            raise UserError(f"optimizer.groups: {' and '.join(map(repr, found))} both match {path!r}; one alone may")
        return groups[found[0]] if found else 1.0

    return tree.map_with_path(factor, params)


def matching(params: Any, patterns: Sequence[str], key: str) -> Any:
    """Return the tree of booleans that is True where a path matches one of `patterns`.

    Raises:
        UserError: a pattern matches no path; the message names `key`.
    """
    paths = list(tree.flatten(params))
    for pattern in patterns:
        if not any(re.search(pattern, path) for path in paths):
            raise UserError(f"{key}: {pattern!r} matches none of {_few(paths)}{nearest(pattern, paths)}")
    return tree.mask(params, patterns)


def _few(paths: list[str], most: int = 8) -> str:
    return ", ".join(paths[:most]) + (f" and {len(paths) - most} more" if len(paths) > most else "")
