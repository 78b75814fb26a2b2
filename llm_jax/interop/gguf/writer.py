"""A model of ours as one GGUF file, with its tokenizer and chat template, for llama.cpp."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_jax.core.table import UserError, choices
from llm_jax.interop import configs
from llm_jax.interop.fields import flat, nested
from llm_jax.interop.gguf.architectures import (
    ARCHITECTURES,
    LLAMA3,
    Architecture,
    Place,
    experts_of,
    factors_of,
    heads_of,
    places,
    to_file,
)
from llm_jax.interop.gguf.header import package
from llm_jax.interop.gguf.tokens import AT, ENDS, metadata_of
from llm_jax.interop.names import Stream, to_hf
from llm_jax.interop.save import DTYPES, Export, cast

FILE = "model.gguf"
TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
FILE_TYPES = {"float32": 0, "float16": 1, "bfloat16": 32}


def gguf(folder: Path, what: Export, leaves: Stream) -> None:
    """Write model.gguf into a folder; matrices in the dtype asked for, vectors in float32, as llama.cpp wants them.

    Raises:
        UserError: the format cannot express the model or its tokenizer.
    """
    library, config = package(), what.config()
    form = _architecture(what, config)
    where = _places(what, form, config)
    factors = factors_of(config)
    out = library.GGUFWriter(str(folder / FILE), form.name)
    out.add_file_type(FILE_TYPES[what.dtype])
    for key, value in form.metadata(config).items():
        _add(out, f"{form.name}.{key}", value)
    for key, value in _words(what, config["vocab_size"]).items():
        _add(out, key, value)
    if factors is not None:
        out.add_tensor_info(form.factors, factors.shape, factors.dtype, factors.nbytes)
    for name, shape in _shapes(what, where).items():
        dtype = _dtype(what, name, shape)
        size = int(np.prod(shape)) * np.dtype(DTYPES[dtype]).itemsize
        out.add_tensor_info(name, shape, np.dtype(np.float32), size, library.GGMLQuantizationType[TYPES[dtype]])
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_ti_data_to_file()
    if factors is not None:
        out.write_tensor_data(factors)
    for tensor in _tensors(what, where, form, heads_of(config), leaves):
        out.write_tensor_data(tensor)
    out.close()


def _architecture(what: Export, config: dict[str, Any]) -> Architecture:
    """Return the format's architecture for a model whose metadata, read back, say the same model.

    Raises:
        UserError: there is none.
    """
    able = {form.model_type: form for form in ARCHITECTURES}
    if config["model_type"] not in able:
        raise UserError(f"model.name={what.family!r} cannot be written as GGUF; {choices(able)} can")
    form = able[config["model_type"]]
    said = nested({form.keys[key]: value for key, value in form.metadata(config).items()})
    said |= {key: config[key] for key in ("model_type", "tie_word_embeddings") if key in config}
    if form.factors and (config.get("rope_scaling") or {}).get("rope_type") == "llama3":
        said["rope_scaling"] = {"rope_type": "llama3", "factor": config["rope_scaling"]["factor"], **LLAMA3}
    again = flat(configs.read(form.implied(said) | said).fields)
    meant = flat(configs.read(config).fields)
    if (meant.get("window") or 0) >= what.context:  # no text is long enough for it to hide anything
        meant["window"] = again["window"]
    lost = [f"model.{key}={meant[key]!r}" for key in meant if meant[key] != again.get(key)]
    if lost:
        raise UserError(f"GGUF's architecture {form.name!r} cannot say {', '.join(lost)}; export with --format=hf")
    return form


def _places(what: Export, form: Architecture, config: dict[str, Any]) -> dict[str, Place]:
    """Return {Hugging Face's name: place} of all tensors of the model, in the order in which they come.

    Raises:
        UserError: the format has no place for one of them.
    """
    rules, experts = [rule.theirs for rule in what.names().rules], experts_of(config)
    known, table = places(form.name, rules, config["num_hidden_layers"], experts), what.infos()
    lost = [name for name in table if name not in known]
    if lost:
        raise UserError(f"GGUF's architecture {form.name!r} has no place for {', '.join(lost[:5])}")
    return {name: known[name] for name in table}


def _shapes(what: Export, where: Mapping[str, Place]) -> dict[str, tuple[int, ...]]:
    """Return {name in the file: shape}; of a stack the last expert has the highest number."""
    stacked = {p.name: () if p.expert is None else (p.expert + 1,) for p in where.values()}
    infos = what.infos()
    return {place.name: stacked[place.name] + infos[name].shape for name, place in where.items()}


def _tensors(
    what: Export, where: Mapping[str, Place], form: Architecture, heads: Sequence[int], leaves: Stream
) -> Iterator[np.ndarray]:
    """Yield what each name in the file holds, in their order: the writer knows them by it alone."""
    foreign = to_hf(what.names(), what.shapes, leaves)
    paired = zip(where.items(), foreign, strict=True)
    for name, group in itertools.groupby(paired, key=lambda pair: pair[0][1].name):
        parts, stacked = [], False
        for (expected, place), (found, tensor) in group:
            assert expected == found
            turned, stacked = to_file(tensor, name, form, heads), place.expert is not None
            parts.append(cast(found, turned, _dtype(what, name, tensor.shape)))
        yield np.stack(parts) if stacked else parts[0]


def _words(what: Export, vocab_size: int) -> dict[str, Any]:
    if what.tokenizer is None:
        return {f"{AT}model": "none"}
    ends = what.controls()["eos_token_id"]
    others = [i for i in ends if i != what.tokenizer.eos_id] if isinstance(ends, list) else []
    said = metadata_of(what.tokenizer, vocab_size) | dict(zip(ENDS[1:], others, strict=False))
    template = {} if what.template is None else {"tokenizer.chat_template": what.template}
    return {AT + key: value for key, value in said.items()} | template


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


def _dtype(what: Export, name: str, shape: tuple[int, ...]) -> str:
    """Vectors and routers stay wide: a router's choice hangs by little."""
    return "float32" if len(shape) == 1 or "ffn_gate_inp" in name else what.dtype
