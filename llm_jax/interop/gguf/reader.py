"""A GGUF file as a source: its tensors and metadata in the words of Hugging Face, dequantized tensor by tensor."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_jax.core.table import UserError, choices, lookup
from llm_jax.interop import configs
from llm_jax.interop.fields import nested
from llm_jax.interop.gguf.architectures import (
    ARCHITECTURES,
    LLAMA3,
    Architecture,
    Place,
    experts_of,
    factors_of,
    form_of,
    from_file,
    heads_of,
    places,
)
from llm_jax.interop.gguf.blocks import dequantized
from llm_jax.interop.gguf.header import Entry, Header
from llm_jax.interop.gguf.tokens import generation_of, tokenizer_of
from llm_jax.interop.names import NAMES, NameMap
from llm_jax.interop.safetensors import Info
from llm_jax.interop.source import Source

OURS = ("general.", "tokenizer.", "quantize.", "split.")  # metadata that say nothing of the maths


class Tensors:
    """The tensors of a file under Hugging Face's names, float32, in Hugging Face's layout."""

    def __init__(
        self, path: Path, header: Header, known: Mapping[str, Place], form: Architecture, heads: Sequence[int]
    ):
        self._path, self._entries, self._form, self._heads = path, header.entries, form, heads
        self._counts = Counter(place.name for place in known.values())
        strange = header.entries.keys() - self._counts.keys() - {form.factors}
        found = {name: place for name, place in known.items() if place.name in header.entries}
        self._places = found | {name: Place(name) for name in header.entries if name in strange}
        self.infos = {name: Info(self._shape(place), np.dtype(np.float32)) for name, place in self._places.items()}

    def _shape(self, place: Place) -> tuple[int, ...]:
        """Of one expert, unless the stack holds another number of them."""
        shape = self._entries[place.name].shape
        whole = place.expert is None or shape[0] != self._counts[place.name]
        return shape if whole else shape[1:]

    def read(self, name: str) -> np.ndarray:
        """Return a tensor, dequantized."""
        place = self._places[name]
        entry = self._entries[place.name]
        if place.expert is not None:
            size = (entry.end - entry.begin) // entry.shape[0]
            begin = entry.begin + place.expert * size
            entry = Entry(entry.shape[1:], entry.kind, begin, begin + size)
        return from_file(dequantized(self._path, entry), place.name, self._form, self._heads)


def source(path: Path) -> Source:
    """Return the model in a GGUF file.

    Raises:
        UserError: the file lies, or its architecture is none of ours.
    """
    header = Header(path)
    form = form_of(header.metadata)
    if form is None:
        kind, able = header.metadata.get("general.architecture"), sorted({form.name for form in ARCHITECTURES})
        raise UserError(f"{path}: architecture {kind!r} cannot be imported; {choices(able)} can")
    config = config_of(path, header, form)
    names: NameMap = lookup(NAMES, configs.MODEL_TYPES[form.model_type], "family")
    rules = [rule.theirs for rule in names.rules]
    known = places(form.name, rules, config["num_hidden_layers"], experts_of(config))
    words, notes = tokenizer_of(header.metadata)
    tensors = Tensors(path, header, known, form, heads_of(config))
    template = header.metadata.get("tokenizer.chat_template")
    return Source(path, "gguf", config, tensors, words, template, generation_of(header.metadata), notes)


def config_of(path: Path, header: Header, form: Architecture) -> dict[str, Any]:
    """Return config.json as the metadata say it.

    Raises:
        UserError: a key of the architecture is not understood, or two disagree.
    """
    config: dict[str, Any] = {}
    problems = []
    for key, value in header.metadata.items():
        if key.startswith(OURS):
            continue
        theirs = form.keys.get(key.removeprefix(f"{form.name}."))
        plain = float(str(np.float32(value))) if isinstance(value, float) else value  # 1e-5, not 9.99999975e-06
        if theirs is None or not isinstance(value, int | float | str):
            problems.append(f"{key}={str(value)[:80]} is not understood, and might change what the model computes")
        elif config.setdefault(theirs, plain) != plain:
            problems.append(f"{key}={plain} and {theirs}={config[theirs]} disagree")
    if "token_embd.weight" in header.entries:
        config.setdefault("vocab_size", header.entries["token_embd.weight"].shape[0])
    missing = {"num_hidden_layers", "num_attention_heads"} - config.keys()
    problems += [f"{key} is not said" for key in sorted(missing)]
    problems += [] if missing else _counts(config, header)
    if problems:
        raise UserError(f"{path}:\n  " + "\n  ".join(problems))
    tied = "output.weight" not in header.entries
    return _stretched(path, header, form, form.implied(config) | _nested(config) | {
        "model_type": form.model_type, "tie_word_embeddings": tied,
    })  # fmt: skip


def _counts(config: Mapping[str, Any], header: Header) -> list[str]:
    """Refuse numbers of layers and experts that no tensor bears out, before anything is made for each of them."""
    stacks = max((entry.shape[0] for entry in header.entries.values()), default=0)
    most = {"num_hidden_layers": len(header.entries), "num_local_experts": stacks, "num_experts": stacks}
    return [f"{key}={config[key]} are not in the file" for key in most if config.get(key, 0) > most[key]]


def _nested(config: dict[str, Any]) -> dict[str, Any]:
    """Nest keys; the scaling that is none goes."""
    found = nested(config)
    return found if found.get("rope_scaling", {}).get("rope_type") != "none" else {**found, "rope_scaling": None}


def _stretched(path: Path, header: Header, form: Architecture, config: dict[str, Any]) -> dict[str, Any]:
    """Add Llama 3's scaling of frequencies, if a tensor says it.

    Raises:
        UserError: the tensor is not that of any published model.
    """
    entry = header.entries.get(form.factors)
    if entry is None:
        return config
    found = dequantized(path, entry) if math.prod(entry.shape) * 2 == config["head_dim"] else np.zeros(1)
    factor = round(float(np.max(found)), 3)
    scaling = {"rope_type": "llama3", "factor": factor, **LLAMA3}
    wanted = factors_of(config | {"rope_scaling": scaling}) if factor > 1 else np.ones_like(found)
    if wanted is None or not np.allclose(found, wanted, rtol=1e-3):
        raise UserError(f"{path}: {form.factors} is not how Llama 3 stretches its wavelengths; it cannot be imported")
    return config | ({"rope_scaling": scaling} if factor > 1 else {})
