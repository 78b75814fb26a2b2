"""An adapter in the format of Hugging Face's `peft`: adapter_config.json and adapter_model.safetensors.

Beside a head for labels stands the head itself, whole: who loads the adapter has a model without it.

One of their modules may hold several of our kernels side by side (GPT-2's query, key and value). Each of these has an
adapter of its own; together they are one of the sum of their ranks, whose second matrix is zero off the blocks.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from llm_jax.core.table import UserError
from llm_jax.interop import safetensors
from llm_jax.interop.names import Slot, slots
from llm_jax.interop.names.labelled import SPANS, TEXT, TOKENS
from llm_jax.interop.safetensors import Info
from llm_jax.interop.save import DTYPES, Export, cast

CONFIG, FILE = "adapter_config.json", "adapter_model.safetensors"
LAYOUTS = ("out_in", "in_out", "by_head")
MAGNITUDE = "magnitude_scale"
TASKS = {TEXT: "SEQ_CLS", TOKENS: "TOKEN_CLS", SPANS: "QUESTION_ANS"}

Parts = Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Adapter:
    """parts: {path of a kernel: {"down": [*batch,*I,R], "up": [*batch,R,*O], and with DoRA "magnitude_scale"}}.

    alpha: of LoRA. lengths: of a kernel that does not change, [*batch,*O]: what DoRA would begin with. whole: any
    parameter, with its change.
    """

    rank: int
    alpha: float
    dropout: float
    parts: Parts
    lengths: Callable[[str], np.ndarray]
    whole: Callable[[str], np.ndarray]

    @property
    def decomposed(self) -> bool:
        """Whether it is DoRA's."""
        return any(MAGNITUDE in part for part in self.parts.values())


def peft(folder: Path, what: Export, adapter: Adapter) -> None:
    """Write an adapter into a folder that is there and empty; `PeftModel.from_pretrained(base, folder)` reads it.

    Raises:
        UserError: a kernel that changes is no `Linear` or `Conv1D` of its own in transformers, or its class with a head
            does not load a model without one.
    """
    saved = _saved(what)
    modules = _modules(what, adapter, {path for slot in saved.values() for path in slot.rule.ours})
    ranks = {name: adapter.rank * len(_ours(slot, adapter)) for name, slot in modules.items()}
    tensors = {
        f"base_model.model.{name}.{key}": cast(name, tensor, what.dtype)
        for name, slot in modules.items()
        for key, tensor in _tensors(slot, adapter)
    }
    for name, slot in saved.items():
        tensor = slot.rule.encode([adapter.whole(path) for path in slot.rule.ours])
        tensors[f"base_model.model.{name}"] = cast(name, tensor, what.dtype)
    infos = {name: Info(tensor.shape, np.dtype(DTYPES[what.dtype])) for name, tensor in tensors.items()}
    safetensors.write(folder, infos, tensors.items(), 1 << 62)
    (folder / safetensors.FILE).rename(folder / FILE)
    form = _config(what, adapter, ranks, {slot.rule.layout for slot in modules.values()})
    (folder / CONFIG).write_text(json.dumps(form, indent=2) + "\n")


def _saved(what: Export) -> dict[str, Slot]:
    """Return {tensor: its slot} of the module that is a head for labels.

    Raises:
        UserError: the class with the head does not load a model without one.
    """
    if what.head is None:
        return {}
    if any(not name.startswith(f"{what.head.module}.") for name in what.head.abroad.moved.values()):
        raise UserError(
            f"--format=peft: {what.head.abroad.name} calls all weights otherwise than {what.family} without a head "
            "does, and would load none of them beside the adapter; export the merged model with --format=hf"
        )
    return {n: slot for n, slot in slots(what.names(), what.shapes).items() if n.startswith(f"{what.head.module}.")}


def _modules(what: Export, adapter: Adapter, but: Set[str]) -> dict[str, Slot]:
    """Return {their module: its slot} of all that change, `but` for some of our paths."""
    table = slots(what.names(), what.shapes)
    found = {n: slot for n, slot in table.items() if _ours(slot, adapter) and not but & {*slot.rule.ours}}
    for name, slot in found.items():
        if slot.rule.layout not in LAYOUTS or "{expert}" in slot.rule.theirs or not name.endswith(".weight"):
            raise UserError(
                f"--format=peft: {', '.join(_ours(slot, adapter))} is {name!r} in transformers, which is no linear "
                "layer of its own; export the merged model with --format=hf"
            )
    return {name.removesuffix(".weight"): slot for name, slot in found.items()}


def _ours(slot: Slot, adapter: Adapter) -> list[str]:
    return [path for path in slot.rule.ours if path in adapter.parts]


def _tensors(slot: Slot, adapter: Adapter) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the tensors of one module: A [R,I], B [O,R] and the lengths [O]."""
    ours, rule = _ours(slot, adapter), slot.rule
    downs = [adapter.parts[path]["down"][slot.at].reshape(-1, adapter.rank) for path in ours]
    ups = [
        _block(adapter.parts[path]["up"][slot.at], ours.index(path), len(ours))
        if path in ours
        else np.zeros((adapter.rank * len(ours), *shape[rule.inputs :]), np.float32)
        for path, shape in zip(rule.ours, slot.shapes, strict=True)
    ]
    joined = replace(rule, inputs=1).encode(ups)
    yield "lora_A.weight", np.concatenate(downs, axis=1).T
    yield "lora_B.weight", joined.T if rule.layout == "in_out" else joined
    if adapter.decomposed:
        each = [adapter.parts[p][MAGNITUDE] if p in ours else adapter.lengths(p) for p in rule.ours]
        lengths = replace(rule, inputs=0).encode([leaf[slot.at] for leaf in each])
        yield "lora_magnitude_vector", lengths.reshape(-1)


def _block(up: np.ndarray, place: int, count: int) -> np.ndarray:
    """Return one kernel's [R,*O] among the rows of several: [count * R,*O], zero in the others'."""
    whole = np.zeros((count, *up.shape), up.dtype)
    whole[place] = up
    return whole.reshape(-1, *up.shape[1:])


def _config(what: Export, adapter: Adapter, ranks: Mapping[str, int], layouts: set[str]) -> dict[str, object]:
    usual = max(set(ranks.values()), key=list(ranks.values()).count)
    odd = {name: rank for name, rank in ranks.items() if rank != usual}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if what.head is None else TASKS[what.head.kind],
        "base_model_name_or_path": None,
        "r": usual,
        "lora_alpha": adapter.alpha * usual / adapter.rank,
        "lora_dropout": adapter.dropout,
        "target_modules": targets(list(ranks), list(slots(what.names(), what.shapes))),
        "rank_pattern": {re.escape(name): rank for name, rank in odd.items()},
        "alpha_pattern": {re.escape(name): adapter.alpha * rank / adapter.rank for name, rank in odd.items()},
        "fan_in_fan_out": layouts == {"in_out"},
        "use_dora": adapter.decomposed,
        "modules_to_save": None if what.head is None else [what.head.module],
        "bias": "none",
        "inference_mode": True,
    }


def targets(modules: Sequence[str], tensors: Sequence[str]) -> list[str]:
    """Return the last names of modules where each stands for these alone among all, else the whole names."""
    known = {name.removesuffix(".weight") for name in tensors if name.endswith(".weight")}
    last, others = ({name.rpartition(".")[2] for name in each} for each in (modules, known - set(modules)))
    return sorted(modules) if last & others else sorted(last)
