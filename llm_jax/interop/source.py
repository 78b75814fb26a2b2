"""A foreign model as it lies on disk: its config, its tensors, its tokenizer's files, and what is said with it.

A source is a directory of Hugging Face (config.json, safetensors, tokenizer), one GGUF file or one ARPA file. Pickles
are refused.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_jax.core.table import UserError, lookup
from llm_jax.interop import safetensors
from llm_jax.interop.quantized.unpack import unpacked
from llm_jax.interop.safetensors import Tensors
from llm_jax.text import tokenizers
from llm_jax.text.base import Tokenizer

TEMPLATE, GENERATION = "chat_template.jinja", "generation_config.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
FILES = {".arpa": "llm_jax.interop.arpa.reader:source", ".gguf": "llm_jax.interop.gguf.reader:source"}
KINDS = {"tokenizer.json": "huggingface", "tokenizer.model": "sentencepiece"}


@dataclass(frozen=True)
class Source:
    """What a foreign model consists of.

    config: in the words of config.json; of a `ready` one our fields. tensors: under foreign names and in foreign
    layouts; of a `ready` one ours by path. tokenizer: None where there is none, or none that is read here. template:
    for chats. generation: in the words of generation_config.json. notes: what its user should know. ready: our family,
    where nothing has to be renamed or turned.
    """

    path: Path
    kind: str
    config: Mapping[str, Any]
    tensors: Tensors
    tokenizer: Tokenizer | None = None
    template: str | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    ready: str | None = None


def open_source(path: str) -> Source:
    """Return what lies at a path.

    Raises:
        UserError: there is nothing, or nothing that can be imported; the message says what to do.
    """
    where = Path(path).expanduser()
    if where.is_dir():
        return directory(where)
    if not where.exists():
        raise UserError(
            f"SRC={path} is not there; give a directory with config.json and *.safetensors, a .gguf or an .arpa file"
        )
    if where.suffix in FILES:
        opened: Source = lookup(FILES, where.suffix, "SRC")(where)
        return opened
    raise UserError(f"SRC={path} is not a directory, a .gguf or an .arpa file{_instead([where])}")


def directory(where: Path) -> Source:
    """Return the model in a directory of Hugging Face.

    Raises:
        UserError: a file that is needed is missing, or is not what its name says.
    """
    if not any((where / name).exists() for name in (safetensors.FILE, safetensors.INDEX)):
        raise UserError(f"{where} has no {safetensors.FILE}{_instead(sorted(where.iterdir()))}")
    config, tensors = unpacked(json_of(where / "config.json"), safetensors.Directory(where))
    named = json_of(where / "tokenizer_config.json", missing={})
    template = named.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = next((t["template"] for t in template if t.get("name") == "default"), None)
    if (where / TEMPLATE).exists():
        template = (where / TEMPLATE).read_text("utf-8")
    return Source(where, "hf", config, tensors, beside(where), template, _generation(where, config))


def _generation(where: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return generation_config.json, with what config.json alone says: several ends of a text, a decoder's first id."""
    found, last = json_of(where / GENERATION, missing={}), config.get("eos_token_id")
    said = {"eos_token_id": last if isinstance(last, list) else None}
    said["decoder_start_token_id"] = config.get("decoder_start_token_id")
    more = {name: value for name, value in said.items() if value is not None and found.get(name) is None}
    return {"_from_model_config": not found, **found, **more} if more else found


def beside(where: Path) -> Tokenizer | None:
    """Return the tokenizer in a folder, None where there is none."""
    for file, name in KINDS.items():
        if (where / file).exists():
            return tokenizers.build(name, {"path": str(where / file)})
    return None


def _instead(files: list[Path]) -> str:
    """Return the end of an error: what to give in place of these files."""
    ready = [file for file in files if file.suffix in FILES]
    if ready:
        return f"; give the file that it holds, SRC={ready[0]}"
    found = [file.name for file in files if file.suffix in PICKLES]
    if not found:
        return "; give a directory with config.json and *.safetensors, a .gguf or an .arpa file"
    return (
        f". {found[0]} is a pickle, which can run any code when it is read, so it is not read here: where you trust "
        "it, load it with transformers and call save_pretrained(DIR), which writes safetensors, and import DIR"
    )


def json_of(path: Path, missing: Any = None) -> dict[str, Any]:
    """Return the object in a JSON file, or `missing` where there is no file.

    Raises:
        UserError: it is missing and must not be, or is not a JSON object.
    """
    if missing is not None and not path.exists():
        return dict(missing)
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object")
    return value
