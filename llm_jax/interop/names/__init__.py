"""Hugging Face's names and layouts of tensors, one two-way map per family, as data.

A map is a tuple of rules (see `rules`). A name with `{layer}` stands for one tensor a layer, and one with `{expert}`
for one an expert of it, while ours are stacked on leading axes.
`to_hf` and `from_hf` turn streams of (name, array) into each other: at no time do they hold more than the leaves that
are still incomplete.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from llm_jax.core.table import UserError, nearest
from llm_jax.interop.names.rules import Rule, Shape

Stream = Iterable[tuple[str, np.ndarray]]

NAMES = {
    "bart": "llm_jax.interop.names.seq2seq.bart:NAMES",
    "bert": "llm_jax.interop.names.encoder.bert:NAMES",
    "deepseek_v3": "llm_jax.interop.names.moe.deepseek_v3:NAMES",
    "gemma": "llm_jax.interop.names.gemma.gemma:NAMES",
    "gemma2": "llm_jax.interop.names.gemma.gemma2:NAMES",
    "gemma3": "llm_jax.interop.names.gemma.gemma3:NAMES",
    "gpt2": "llm_jax.interop.names.gpt2:NAMES",
    "gpt_neox": "llm_jax.interop.names.gpt_neox:NAMES",
    "gpt_oss": "llm_jax.interop.names.moe.gpt_oss:NAMES",
    "llama": "llm_jax.interop.names.llama:NAMES",
    "mamba2": "llm_jax.interop.names.mamba2:NAMES",
    "marian": "llm_jax.interop.names.seq2seq.marian:NAMES",
    "mistral": "llm_jax.interop.names.mistral:NAMES",
    "mixtral": "llm_jax.interop.names.moe.mixtral:NAMES",
    "modernbert": "llm_jax.interop.names.encoder.modernbert:NAMES",
    "olmo2": "llm_jax.interop.names.olmo2:NAMES",
    "phi3": "llm_jax.interop.names.phi3:NAMES",
    "qwen2": "llm_jax.interop.names.qwen2:NAMES",
    "qwen3": "llm_jax.interop.names.qwen3:NAMES",
    "qwen3_moe": "llm_jax.interop.names.moe.qwen3_moe:NAMES",
    "roberta": "llm_jax.interop.names.encoder.roberta:NAMES",
    "t5": "llm_jax.interop.names.seq2seq.t5:NAMES",
}


@dataclass(frozen=True)
class NameMap:
    """All tensors of a family.

    prefix: of names, which some files leave out. outside: how names begin that have none. old: {an old ending of names:
    the present one}. ignored: patterns (full match) of buffers that hold no parameter.
    copies: names that files may repeat where the model ties them, each with the tensor that it must equal.
    layers: {stack of ours: their number of each of its layers}; a stack that is not named counts from 0.
    """

    rules: tuple[Rule, ...]
    prefix: str = ""
    ignored: tuple[str, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)
    layers: Mapping[str, Sequence[int]] = field(default_factory=dict)
    outside: tuple[str, ...] = ()
    old: Mapping[str, str] = field(default_factory=dict)

    def full(self, raw: str) -> str:
        """Return the name of a file's tensor as the rules have it."""
        ending = next((end for end in self.old if raw.endswith(end)), "")
        name = raw.removesuffix(ending) + self.old.get(ending, "")
        return name if name.startswith((self.prefix, *self.outside)) or name in self.copies else self.prefix + name


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
        name = names.full(raw)
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
