"""Hugging Face's names and layouts of tensors, one two-way map per family, as data.

A map is a tuple of rules. Each says which of our parameters lie in one foreign tensor, and how; a name with `{layer}`
stands for one tensor a layer, and one with `{expert}` for one an expert of it, while ours are stacked on leading axes.
`to_hf` and `from_hf` turn streams of (name, array) into each other: at no time do they hold more than the leaves that
are still incomplete.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from llm_jax.core.table import UserError, nearest

Shape = tuple[int, ...]
Stream = Iterable[tuple[str, np.ndarray]]

NAMES = {
    "deepseek_v3": "llm_jax.interop.names.moe.deepseek_v3:NAMES",
    "gemma": "llm_jax.interop.names.gemma.gemma:NAMES",
    "gemma2": "llm_jax.interop.names.gemma.gemma2:NAMES",
    "gemma3": "llm_jax.interop.names.gemma.gemma3:NAMES",
    "gpt2": "llm_jax.interop.names.gpt2:NAMES",
    "gpt_neox": "llm_jax.interop.names.gpt_neox:NAMES",
    "gpt_oss": "llm_jax.interop.names.moe.gpt_oss:NAMES",
    "llama": "llm_jax.interop.names.llama:NAMES",
    "mamba2": "llm_jax.interop.names.mamba2:NAMES",
    "mistral": "llm_jax.interop.names.mistral:NAMES",
    "mixtral": "llm_jax.interop.names.moe.mixtral:NAMES",
    "olmo2": "llm_jax.interop.names.olmo2:NAMES",
    "phi3": "llm_jax.interop.names.phi3:NAMES",
    "qwen2": "llm_jax.interop.names.qwen2:NAMES",
    "qwen3": "llm_jax.interop.names.qwen3:NAMES",
    "qwen3_moe": "llm_jax.interop.names.moe.qwen3_moe:NAMES",
}


@dataclass(frozen=True)
class Rule:
    """One foreign tensor: its name, the paths of ours that it holds side by side, and the layout.

    layout: `same` · `vector` ours [*O] flattened · `in_out` ours [*I,*O] as the matrix [I,O] (TensorFlow's, GPT-2's) ·
    `out_in` as [O,I] (torch.nn.Linear) · `depthwise` as [O,1,I] (torch.nn.Conv1d with a filter a channel) · `in_turn`
    the last dimension holds that of each part in turn · `by_head` as `out_in` of each head, all parts, before the next
    head. inputs: how many of our leading dimensions are I. Several parts otherwise lie side by side along O.
    """

    theirs: str
    ours: tuple[str, ...]
    layout: str
    inputs: int = 0

    def encode(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Return the foreign tensor of our arrays (of one layer)."""
        if self.layout == "same":
            return parts[0]
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


@dataclass(frozen=True)
class NameMap:
    """All tensors of a family.

    prefix: of names, which some files leave out. ignored: patterns (full match) of buffers that hold no parameter.
    copies: names that files may repeat where the model ties them, each with the tensor that it must equal.
    layers: {stack of ours: their number of each of its layers}; a stack that is not named counts from 0.
    """

    rules: tuple[Rule, ...]
    prefix: str = ""
    ignored: tuple[str, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)
    layers: Mapping[str, Sequence[int]] = field(default_factory=dict)


def numbered(names: NameMap, model: Any) -> NameMap:
    """Return the map for a model that may have several stacks of layers (`model.stacks()`)."""
    return replace(names, layers=model.stacks()) if hasattr(model, "stacks") else names


class Slot(NamedTuple):
    """Where a foreign tensor belongs: its rule, at which layer (and expert) of our stacks, and our shapes there."""

    rule: Rule
    at: tuple[int, ...]
    shapes: list[Shape]


def slots(names: NameMap, shapes: Mapping[str, Shape]) -> dict[str, Slot]:
    """Return {foreign name: Slot} of every tensor of a model whose parameters have these shapes, stacks included.

    Raises:
        ValueError: when the map does not place every path of `shapes` exactly once.
    """
    table: dict[str, Slot] = {}
    placed: list[str] = []
    for rule in names.rules:
        if not all(path in shapes for path in rule.ours):
            continue
        placed += rule.ours
        wholes = [tuple(shapes[path]) for path in rule.ours]
        depth = ("{layer}" in rule.theirs) + ("{expert}" in rule.theirs)
        numbers = names.layers.get(rule.ours[0].split("/")[0])
        for index in np.ndindex(*wholes[0][:depth]):
            place = {} if not index else {"layer": numbers[index[0]] if numbers else index[0], "expert": index[-1]}
            name = rule.theirs.format(**place)
            if name in table:
                raise ValueError(f"the map of names has {name!r} twice: give the numbers of layers (`numbered`)")
            table[name] = Slot(rule, index, [s[depth:] for s in wholes])
    if sorted(placed) != sorted(shapes):
        raise ValueError(f"the map of names does not place {sorted(set(shapes) ^ set(placed))} exactly once")
    return table


def to_hf(names: NameMap, shapes: Mapping[str, Shape], leaves: Stream) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (foreign name, array) for our (path, array), each as soon as all that it holds has come.

    Raises:
        ValueError: a path that `shapes` lacks, one of another shape, or one that did not come.
    """
    table, waiting = slots(names, shapes), dict[str, np.ndarray]()
    for path, leaf in leaves:
        if tuple(leaf.shape) != tuple(shapes.get(path, ())):
            raise ValueError(f"{path} has shape {tuple(leaf.shape)}, expected {shapes.get(path, 'no such parameter')}")
        waiting[path] = np.asarray(leaf)
        ready = {n: s for n, s in table.items() if path in s.rule.ours and all(p in waiting for p in s.rule.ours)}
        for name, slot in ready.items():
            yield name, slot.rule.encode([waiting[p][slot.at] for p in slot.rule.ours])
            del table[name]
        needed = {p for slot in table.values() for p in slot.rule.ours}
        waiting = {p: a for p, a in waiting.items() if p in needed}
    if table:
        raise ValueError(f"these parameters did not come: {sorted({p for s in table.values() for p in s.rule.ours})}")


def from_hf(names: NameMap, shapes: Mapping[str, Shape], tensors: Stream) -> Iterator[tuple[str, np.ndarray]]:
    """Yield our (path, array) for (foreign name, array), each as soon as all its layers have come.

    Raises:
        UserError: an unknown tensor, one of another shape, one that comes twice, or one that does not come.
    """
    table = slots(names, shapes)
    known = set(table)
    tied = {name: original for name, original in names.copies.items() if name not in known}
    tables: dict[str, np.ndarray] = {}  # what tied tensors must equal
    filled: dict[str, np.ndarray] = {}
    left = Counter(path for slot in table.values() for path in slot.rule.ours)
    for raw, tensor in tensors:
        name = raw if raw.startswith(names.prefix) or raw in names.copies else names.prefix + raw
        if name not in known and any(re.fullmatch(pattern, name) for pattern in names.ignored):
            continue
        if name in tied or name in tied.values():
            original = tied.get(name, name)
            if not np.array_equal(tables.setdefault(original, tensor), tensor):
                raise UserError(
                    f"tensors {original!r} and its copy differ, and this model ties them; try model.tied=False"
                )
        if name in tied:
            continue
        slot = table.pop(name, None)
        if slot is None:
            raise UserError(
                f"tensor {raw!r} {'comes twice' if name in known else 'is not known' + nearest(name, table)}"
            )
        wanted = slot.rule.shape(slot.shapes)
        if tuple(tensor.shape) != wanted:
            raise UserError(f"tensor {raw!r} has shape {tuple(tensor.shape)}; this model needs {wanted}")
        for path, part in zip(slot.rule.ours, slot.rule.decode(np.asarray(tensor), slot.shapes), strict=True):
            if not slot.at:
                yield path, part
                continue
            stack = filled.setdefault(path, np.empty(shapes[path], part.dtype))
            stack[slot.at] = part
            left[path] -= 1
            if not left[path]:
                yield path, filled.pop(path)
    if table:
        raise UserError(f"{len(table)} tensor(s) are missing: {', '.join(sorted(table)[:5])}")
