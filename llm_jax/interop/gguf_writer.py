"""A model of ours as one GGUF file, with its tokenizer and chat template, for llama.cpp."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llm_jax.core.table import UserError, choices
from llm_jax.interop import configs
from llm_jax.interop.gguf import ARCHITECTURES, Architecture, heads_of, tensor_names, to_file
from llm_jax.interop.gguf_header import package
from llm_jax.interop.gguf_tokens import AT, metadata_of
from llm_jax.interop.names import Stream, slots
from llm_jax.interop.save import Export

FILE = "model.gguf"
TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
FILE_TYPES = {"float32": 0, "float16": 1, "bfloat16": 32}


def gguf(folder: Path, what: Export, leaves: Stream) -> None:
    """Write model.gguf into a folder; matrices in the dtype asked for, vectors in float32, as llama.cpp wants them.

    Raises:
        UserError: the format cannot express the model or its tokenizer.
    """
    library, config = package(), what.config()
    name, form = _architecture(what, config)
    table = slots(what.names(), what.shapes)
    theirs = tensor_names(name, [rule.theirs for rule in what.names().rules], config["num_hidden_layers"])
    out = library.GGUFWriter(str(folder / FILE), name)
    out.add_file_type(FILE_TYPES[what.dtype])
    for key, value in _metadata(form, config).items():
        _add(out, f"{name}.{key}", value)
    for key, value in _words(what, config["vocab_size"]).items():
        _add(out, key, value)
    for foreign, slot in table.items():
        shape = slot.rule.shape(slot.shapes)
        dtype = _dtype(what, shape)
        size = int(np.prod(shape)) * (4 if dtype == "F32" else 2)
        out.add_tensor_info(theirs[foreign], shape, np.dtype(np.float32), size, library.GGMLQuantizationType[dtype])
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_ti_data_to_file()
    for foreign, tensor in _in_order(table, what.tensors(leaves)):
        turned = to_file(tensor, theirs[foreign], form, heads_of(config))
        wide = np.float32 if _dtype(what, tensor.shape) == "F32" else tensor.dtype
        out.write_tensor_data(np.ascontiguousarray(turned, wide))
    out.close()


def _architecture(what: Export, config: dict[str, Any]) -> tuple[str, Architecture]:
    """Return the format's architecture for a model whose metadata, read back, say the same model.

    Raises:
        UserError: there is none.
    """
    able = {form.model_type: name for name, form in ARCHITECTURES.items()}
    if config["model_type"] not in able:
        raise UserError(f"model.name={what.family!r} cannot be written as GGUF; {choices(able)} can")
    name = able[config["model_type"]]
    form = ARCHITECTURES[name]
    said = {theirs: config.get(theirs) for theirs in form.keys.values()}
    kept = {key: config[key] for key in ("model_type", "tie_word_embeddings", "vocab_size") if key in config}
    again = configs.flat(configs.read(kept | said).fields)
    meant = configs.flat(configs.read(config).fields)
    lost = [f"model.{key}={meant[key]!r}" for key in meant if meant[key] != again.get(key)]
    if lost:
        raise UserError(f"GGUF's architecture {name!r} cannot say {', '.join(lost)}; export with --format=hf")
    return name, form


def _metadata(form: Architecture, config: dict[str, Any]) -> dict[str, Any]:
    return {key: config[theirs] for key, theirs in form.keys.items() if config.get(theirs) is not None}


def _words(what: Export, vocab_size: int) -> dict[str, Any]:
    template = {} if what.template is None else {"tokenizer.chat_template": what.template}
    if what.tokenizer is None:
        return {f"{AT}model": "none"}
    return {AT + key: value for key, value in metadata_of(what.tokenizer, vocab_size).items()} | template


def _add(out: Any, key: str, value: Any) -> None:
    """Add a value under the type that its Python type stands for."""
    if isinstance(value, bool):
        out.add_bool(key, value)
    elif isinstance(value, int):
        out.add_uint32(key, value)
    elif isinstance(value, float):
        out.add_float32(key, value)
    elif isinstance(value, str):
        out.add_string(key, value)
    else:
        out.add_array(key, value)


def _dtype(what: Export, shape: tuple[int, ...]) -> str:
    return "F32" if len(shape) == 1 else TYPES[what.dtype]


def _in_order(table: Any, tensors: Iterator[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    """Check that tensors come as they were announced: the writer knows them by their order alone."""
    for expected, (name, tensor) in zip(table, tensors, strict=True):
        assert name == expected
        yield name, tensor
