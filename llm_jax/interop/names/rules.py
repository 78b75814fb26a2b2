"""One foreign tensor: which of our parameters lie in it, and how."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Rule:
    """One foreign tensor: its name, the paths of ours that it holds side by side, and the layout.

    layout: `same` · `vector` ours [*O] flattened · `in_out` ours [*I,*O] as the matrix [I,O] (TensorFlow's, GPT-2's) ·
    `out_in` as [O,I] (torch.nn.Linear) · `depthwise` as [O,1,I] (torch.nn.Conv1d with a filter a channel) · `in_turn`
    the last dimension holds that of each part in turn · `by_head` as `out_in` of each head, all parts, before the next
    head · `after` ours after so many (inputs) rows of zeros. inputs: how many of our leading dimensions are I. Several
    parts otherwise lie side by side along O.
    """

    theirs: str
    ours: tuple[str, ...]
    layout: str
    inputs: int = 0

    def encode(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Return the foreign tensor of our arrays (of one layer)."""
        if self.layout == "same":
            return parts[0]
        if self.layout == "after":
            return np.pad(parts[0], ((self.inputs, 0), (0, 0)))
        if self.layout == "in_turn":
            return np.stack(parts, axis=-1).reshape(*parts[0].shape[:-1], -1)
        if self.layout == "by_head":
            whole = np.stack(parts, axis=-2)
            return whole.reshape(*whole.shape[: self.inputs], -1).T
        rows = [p.reshape(math.prod(p.shape[: self.inputs]), -1) for p in parts]
        matrix = np.concatenate(rows, axis=1) if len(rows) > 1 else rows[0]
        turned = matrix.T
        return {"vector": matrix[0], "in_out": matrix, "out_in": turned, "depthwise": turned[:, None]}[self.layout]

    def decode(self, tensor: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Return our arrays, of these shapes, that `encode` made `tensor` of."""
        if self.layout == "same":
            return [tensor]
        if self.layout == "after":
            return [tensor[self.inputs :]]
        if self.layout == "in_turn":
            return [tensor[..., i :: len(shapes)] for i in range(len(shapes))]
        if self.layout == "by_head":
            whole = tensor.T.reshape(*shapes[0][:-1], len(shapes), shapes[0][-1])
            return [whole[..., i, :] for i in range(len(shapes))]
        turned = tensor.T
        filters = turned.reshape(len(turned), -1)
        matrix = {"vector": tensor[None], "in_out": tensor, "out_in": turned, "depthwise": filters}[self.layout]
        ends = np.cumsum([math.prod(s[self.inputs :]) for s in shapes])[:-1]
        return [part.reshape(s) for part, s in zip(np.split(matrix, ends, axis=1), shapes, strict=True)]

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return the shape of the foreign tensor that holds ours of these shapes."""
        if self.layout == "same":
            return shapes[0]
        if self.layout == "after":
            return (shapes[0][0] + self.inputs, *shapes[0][1:])
        if self.layout == "in_turn":
            return (*shapes[0][:-1], len(shapes) * shapes[0][-1])
        if self.layout == "by_head":
            return (sum(math.prod(s[self.inputs :]) for s in shapes), *shapes[0][: self.inputs])
        rows, columns = math.prod(shapes[0][: self.inputs]), sum(math.prod(s[self.inputs :]) for s in shapes)
        turned = (columns, rows)
        return {
            "vector": (columns,), "in_out": (rows, columns), "out_in": turned, "depthwise": (columns, 1, rows)
        }[self.layout]  # fmt: skip


def same(theirs: str, ours: str) -> Rule:
    """A tensor that is the same on both sides: a table, a norm."""
    return Rule(theirs, (ours,), "same")


def vector(theirs: str, *ours: str) -> Rule:
    """Biases, flattened and side by side."""
    return Rule(theirs, ours, "vector")


def conv1d(theirs: str, *ours: str, inputs: int = 1) -> Rule:
    """Kernels [*I,*O] as one matrix [I,O]: the `Conv1D` of GPT-2."""
    return Rule(theirs, ours, "in_out", inputs)


def linear(theirs: str, *ours: str, inputs: int = 1) -> Rule:
    """Kernels [*I,*O] as one matrix [O,I]: `torch.nn.Linear`."""
    return Rule(theirs, ours, "out_in", inputs)


def depthwise(theirs: str, *ours: str) -> Rule:
    """Filters [I,*O], one a channel, as [O,1,I]: `torch.nn.Conv1d`."""
    return Rule(theirs, ours, "depthwise", 1)


def in_turn(theirs: str, *ours: str, inputs: int) -> Rule:
    """Tensors [*inputs, O] whose last dimensions are interleaved: gate, up, gate, up, …"""
    return Rule(theirs, ours, "in_turn", inputs)


def by_head(theirs: str, *ours: str, inputs: int = 0) -> Rule:
    """Kernels [I,H,K] or biases [H,K]: of each head the rows of all parts, then those of the next head."""
    return Rule(theirs, ours, "by_head", inputs)


def after(theirs: str, ours: str, rows: int) -> Rule:
    """A table [N,D] that begins with rows which nothing looks up."""
    return Rule(theirs, (ours,), "after", rows)
