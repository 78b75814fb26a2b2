"""Our parameters into a directory that `transformers` loads with no code of ours, leaf by leaf."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from llm_jax.core.table import UserError, lookup
from llm_jax.data.corrupt.rows import ends
from llm_jax.interop import configs, safetensors, tokenizers
from llm_jax.interop.names import NAMES, NameMap, Shape, Stream, slots, to_hf
from llm_jax.interop.names.labelled import Head
from llm_jax.interop.safetensors import Info
from llm_jax.interop.source import GENERATION, TEMPLATE
from llm_jax.interop.tokenizers import Frame
from llm_jax.text.base import Tokenizer

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


@dataclass(frozen=True)
class Export:
    """All of a model but its arrays.

    family, fields: the section `model`, every size that has no parameter of its own given. shapes: of the parameters by
    path. context: the longest text, in tokens. dtype: of the tensors that are written. template: for chats.
    generation: in the words of generation_config.json. layers: the numbers of the layers of each stack (`NameMap`).
    head: for labels, in place of that for tokens. frame: the ids that the model is used to before and after a text,
    where the tokenizer's files do not say them.
    """

    family: str
    fields: Mapping[str, Any]
    shapes: Mapping[str, Shape]
    context: int
    dtype: str = "float32"
    tokenizer: Tokenizer | None = None
    template: str | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[str, Sequence[int]] = field(default_factory=dict)
    head: Head | None = None
    frame: Frame = ((), ())

    def config(self) -> dict[str, Any]:
        """Return config.json, control ids included, unless the family itself gives one a meaning."""
        form = configs.write(self.family, self.fields, self.shapes, context=self.context, dtype=self.dtype)
        return self.controls() | form | ({} if self.head is None else self.head.config())

    def controls(self) -> dict[str, Any]:
        """Return the ids of the control tokens, in Hugging Face's words; where a text has several ends, all of them.

        Of a model that reads a source also the id before the first that it writes: as it was imported, or trained.
        """
        found = {}
        for role in ("bos", "eos", "pad"):
            said, ours = self.generation.get(f"{role}_token_id"), getattr(self.tokenizer, f"{role}_id", None)
            found[f"{role}_token_id"] = said if isinstance(said, list) or self.tokenizer is None else ours
        if self.head is not None and not self.pads:
            found["pad_token_id"] = None
        if lookup(configs.FIELDS, self.family, "model.name of an export").source:
            said = self.generation.get("decoder_start_token_id")
            first = None if self.tokenizer is None else ends(self.tokenizer).start
            found["decoder_start_token_id"] = first if said is None else said
        return found

    @property
    def pads(self) -> bool:
        """Whether padding is told from what ends a text; else `transformers` would take that for padding."""
        return self.tokenizer is None or self.tokenizer.pad_id not in self.frame[1]

    def names(self) -> NameMap:
        """Return the family's map of names.

        Raises:
            UserError: the family has none.
        """
        names: NameMap = lookup(NAMES, self.family, "model.name of an export")
        return replace(names if self.head is None else self.head.names(names), layers=self.layers)

    def paths(self) -> list[str]:
        """Return our paths in the order in which their foreign tensors follow one another."""
        return [path for rule in self.names().rules for path in rule.ours if path in self.shapes]

    def infos(self) -> dict[str, Info]:
        """Return what each foreign tensor will be."""
        dtype = np.dtype(DTYPES[self.dtype])
        return {n: Info(s.rule.shape(s.shapes), dtype) for n, s in slots(self.names(), self.shapes).items()}

    def tensors(self, leaves: Stream) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (foreign name, array in the dtype that is written) for our (path, array).

        Raises:
            UserError: a weight is too large for the dtype.
        """
        for name, tensor in to_hf(self.names(), self.shapes, leaves):
            yield name, cast(name, tensor, self.dtype)


def hf(folder: Path, what: Export, leaves: Stream, max_shard_bytes: int = 5 << 30) -> None:
    """Write config.json, the tensors, the tokenizer, the chat template and generation_config.json into a folder.

    Args:
        folder: there already, and empty.
        what: the model.
        leaves: our (path, array), one held at a time.
        max_shard_bytes: see safetensors.write.

    Raises:
        UserError: the family or the tokenizer cannot be expressed.
    """
    texts = {
        "config.json": _json(what.config()),
        GENERATION: _json({"_from_model_config": not what.generation, **what.generation, **_given(what.controls())}),
        **_words(what),
        **({} if what.template is None else {TEMPLATE: what.template.encode()}),
    }
    for name, content in texts.items():
        (folder / name).write_bytes(content)
    safetensors.write(folder, what.infos(), what.tensors(leaves), max_shard_bytes)


def _words(what: Export) -> dict[str, bytes]:
    """Return the files of the tokenizer; with those of a head a text is framed as the model is used to."""
    if what.tokenizer is None:
        return {}
    if what.head is None:
        return tokenizers.files(what.tokenizer, context=what.context)
    typed = "embed/types" in what.shapes
    return tokenizers.files(what.tokenizer, context=what.context, frame=what.frame, pads=what.pads, typed=typed)


def cast(name: str, tensor: np.ndarray, dtype: str) -> np.ndarray:
    """Return a tensor in a dtype of `DTYPES`.

    Raises:
        UserError: a weight is too large for it.
    """
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(tensor, DTYPES[dtype])
    if dtype == "float16" and not np.isfinite(found).all():
        raise UserError(f"{name} holds values that are not finite in float16; export with --dtype=bfloat16")
    return found


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
