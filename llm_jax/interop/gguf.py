"""GGUF, the file of llama.cpp: its tensors and metadata in the words of Hugging Face, dequantized tensor by tensor.

The numbers are dequantized by the `gguf` package.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_jax.core.table import UserError, choices, lookup
from llm_jax.interop import configs
from llm_jax.interop.gguf_header import Header, package
from llm_jax.interop.gguf_tokens import tokenizer_of
from llm_jax.interop.names import NAMES, NameMap
from llm_jax.interop.safetensors import Info
from llm_jax.interop.source import Source

OURS = ("general.", "tokenizer.", "quantize.", "split.")  # metadata that say nothing of the maths


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp says what Hugging Face says.

    model_type: of config.json. keys: {metadata key after "NAME.": key of config.json}. turned: tensors whose rows
    interleave the two halves of each head. shifted: norms are stored plus one.
    """

    model_type: str
    keys: Mapping[str, str]
    turned: tuple[str, ...] = ()
    shifted: bool = False


DECODER = {
    "block_count": "num_hidden_layers", "context_length": "max_position_embeddings", "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size", "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads", "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim", "attention.value_length": "head_dim", "rope.freq_base": "rope_theta",
}  # fmt: skip
LLAMA = DECODER | {"rope.dimension_count": "head_dim", "vocab_size": "vocab_size"}

ARCHITECTURES = {
    "llama": Architecture("llama", LLAMA, turned=("attn_q", "attn_k")),
    "qwen2": Architecture("qwen2", DECODER),
    "qwen3": Architecture("qwen3", DECODER),
}
"""`general.architecture` -> its words; those whose model_type has a family here can be imported and exported."""


class Tensors:
    """The tensors of a file under Hugging Face's names, float32, in Hugging Face's layout."""

    def __init__(self, path: Path, header: Header, names: Mapping[str, str], form: Architecture, heads: Sequence[int]):
        self._path, self._entries, self._form, self._heads = path, header.entries, form, heads
        self._theirs = {theirs: ours for ours, theirs in names.items() if theirs in header.entries}
        self._names = {self._theirs.get(name, name): name for name in header.entries}
        float32 = np.dtype(np.float32)
        self.infos = {ours: Info(header.entries[name].shape, float32) for ours, name in self._names.items()}

    def read(self, name: str) -> np.ndarray:
        """Return a tensor, dequantized."""
        gguf, theirs = package(), self._names[name]
        entry = self._entries[theirs]
        kind = gguf.GGMLQuantizationType(entry.kind)
        block, size = gguf.GGML_QUANT_SIZES[kind]
        raw = np.fromfile(self._path, np.uint8, entry.end - entry.begin, offset=entry.begin)
        values = gguf.dequantize(raw.reshape(*entry.shape[:-1], entry.shape[-1] // block * size), kind)
        return from_file(values.reshape(entry.shape), theirs, self._form, self._heads)


def from_file(values: np.ndarray, name: str, form: Architecture, heads: Sequence[int]) -> np.ndarray:
    """Return a tensor in Hugging Face's layout; heads: of queries, of keys."""
    part = name.split(".")[-2]
    if part in form.turned:
        count = heads[form.turned.index(part)]
        pairs = values.reshape(count, values.shape[0] // count // 2, 2, *values.shape[1:])
        return pairs.swapaxes(1, 2).reshape(values.shape)
    return values - 1 if form.shifted and part.endswith("norm") else values


def to_file(values: np.ndarray, name: str, form: Architecture, heads: Sequence[int]) -> np.ndarray:
    """Undo `from_file`."""
    part = name.split(".")[-2]
    if part in form.turned:
        count = heads[form.turned.index(part)]
        halves = values.reshape(count, 2, values.shape[0] // count // 2, *values.shape[1:])
        return halves.swapaxes(1, 2).reshape(values.shape)
    return values + 1 if form.shifted and part.endswith("norm") else values


def heads_of(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many heads queries and keys have."""
    heads = config["num_attention_heads"]
    return heads, config.get("num_key_value_heads") or heads


def tensor_names(architecture: str, rules: Iterable[str], layers: int) -> dict[str, str]:
    """Return {Hugging Face's name: name in the file}; `rules` are names with {layer}.

    Raises:
        UserError: the format has no place for one of them.
    """
    gguf = package()
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(kinds[architecture], layers)
    wanted = [r.format(layer=i) for r in rules for i in (range(layers) if "{layer}" in r else (0,))]
    found = {name: table.get_name(name, (".weight", ".bias")) for name in wanted}
    lost = [name for name, theirs in found.items() if theirs is None]
    if lost:
        raise UserError(f"GGUF's architecture {architecture!r} has no place for {', '.join(lost[:5])}")
    return found


def source(path: Path) -> Source:
    """Return the model in a GGUF file.

    Raises:
        UserError: the file lies, or its architecture is none of ours.
    """
    header = Header(path)
    kind = header.metadata.get("general.architecture")
    form = ARCHITECTURES.get(str(kind))
    if form is None or form.model_type not in configs.MODEL_TYPES:
        raise UserError(f"{path}: architecture {kind!r} cannot be imported; {choices(ARCHITECTURES)} can")
    config = config_of(path, header, str(kind), form)
    names: NameMap = lookup(NAMES, configs.MODEL_TYPES[form.model_type], "family")
    theirs = tensor_names(str(kind), [rule.theirs for rule in names.rules], config["num_hidden_layers"])
    words, notes = tokenizer_of(header.metadata)
    tensors = Tensors(path, header, theirs, form, heads_of(config))
    template = header.metadata.get("tokenizer.chat_template")
    return Source(path, "gguf", config, tensors, words, template, notes=notes)


def config_of(path: Path, header: Header, kind: str, form: Architecture) -> dict[str, Any]:
    """Return config.json as the metadata say it.

    Raises:
        UserError: a key of the architecture is not understood, or two disagree.
    """
    config: dict[str, Any] = {
        "model_type": form.model_type,
        "tie_word_embeddings": "output.weight" not in header.entries,
    }
    problems = []
    for key, value in header.metadata.items():
        if key.startswith(OURS):
            continue
        theirs = form.keys.get(key.removeprefix(f"{kind}."))
        plain = float(str(np.float32(value))) if isinstance(value, float) else value  # 1e-5, not 9.99999975e-06
        if theirs is None or not isinstance(value, int | float):
            problems.append(f"{key}={str(value)[:80]} is not understood, and might change what the model computes")
        elif config.setdefault(theirs, plain) != plain:
            problems.append(f"{key}={plain} and {theirs}={config[theirs]} disagree")
    if "token_embd.weight" in header.entries:
        config.setdefault("vocab_size", header.entries["token_embd.weight"].shape[0])
    missing = {"num_hidden_layers", "num_attention_heads"} - config.keys()
    problems += [f"{key} is not said" for key in sorted(missing)]
    if problems:
        raise UserError(f"{path}:\n  " + "\n  ".join(problems))
    return config
