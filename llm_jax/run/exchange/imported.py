"""A foreign model as a workdir: its configuration, its parameters as step 0, and what came with it."""

import math
import platform
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from llm_jax import __version__
from llm_jax.core import tree
from llm_jax.core.table import UserError, choices, lookup
from llm_jax.core.types import Declaration, Embeds
from llm_jax.interop import configs, load
from llm_jax.interop.names import NAMES, labelled, numbered
from llm_jax.interop.names.labelled import SPANS, Head
from llm_jax.interop.source import Source
from llm_jax.nn.declare import initialize
from llm_jax.run import build
from llm_jax.run.config import Config, construct, resolve
from llm_jax.run.parts import models
from llm_jax.run.parts.reading import check_vocabulary
from llm_jax.run.resume import PACKAGES
from llm_jax.run.sections import Mesh
from llm_jax.store.checkpoint import Checkpoints
from llm_jax.store.files import is_local, sync_tree, write_json, write_text
from llm_jax.store.manifest import Leaf
from llm_jax.store.workdir import Workdir
from llm_jax.text import cache
from llm_jax.text.base import Tokenizer

ROW = 1024  # tokens of a row of `evaluate`, where the model reads that many


class Imported(NamedTuple):
    """What was imported: family, number of parameters, paths that kept their initial values, what it answers to."""

    family: str
    parameters: int
    initial: list[str]
    verb: str


def import_run(
    source: Source, path: str, *, partial: bool = False, overrides: Sequence[tuple[str, str]] = ()
) -> Imported:
    """Write the workdir of a foreign model; on failure nothing is left.

    Leaf by leaf from file to file: no device is used, and whoever opens the run reads each onto its own.

    Args:
        source: the model.
        path: of the workdir, which must not be there, or be empty.
        partial: take what fits; the rest keeps initial values.
        overrides: of the configuration, such as ("mesh.fsdp", "8").

    Raises:
        UserError: whatever does not fit; the full list of differences.
    """
    workdir = Workdir(path)
    if workdir.path.exists() and (not workdir.path.is_dir() or any(workdir.path.iterdir())):
        raise UserError(f"--workdir={path} is there and not empty; name another, or remove it")
    if source.ready is None:
        described = configs.read(source.config, source.tensors.infos)
        head = labelled.read(described.family, source.config, described.fields)
    else:
        described, head = configs.Described(source.ready, dict(source.config), None, None), None
    words = source.tokenizer
    if head is not None and words is not None and words.kind != "huggingface":
        raise UserError(
            f"{source.path} has a head for labels, and its {words.kind} tokenizer does not say what stands around a "
            "text; load it with transformers.AutoTokenizer, and save_pretrained writes the tokenizer.json that does"
        )
    config = configuration(described, source, head, overrides)
    model = build.model(config, vocab_size=build.ANY_VOCABULARY)
    if words is not None:
        check_vocabulary(config.values["model"]["vocab_size"], words)
    construct(Mesh, config.values["mesh"])  # refuses what is no mesh; its devices need not be here
    declared = _declared(model)
    shapes = {path: d.shape for path, d in declared.items()}
    shapes = shapes if head is None else head.read(shapes)
    if source.ready is None:
        names = numbered(lookup(NAMES, described.family, "family"), model)
        names = names if head is None else head.names(names)
        try:
            found = load.leaves(source.tensors, names, shapes, partial=partial)
        except UserError as error:
            raise UserError(f"{_named(source, described)}: {error}") from None
    else:
        found = ((path, source.tensors.read(path)) for path in shapes)
    initial: list[str] = []
    leaves = completed(found, declared, initial)
    about = _about(source, described)

    def write(folder: Path | epath.Path) -> None:
        _write(Workdir(folder), config, declared, leaves, words, source, about)

    if is_local(workdir.path):
        cache.publish(Path(workdir.path), write)
    else:
        write(workdir.path)
    count = sum(math.prod(shape) for shape in shapes.values())
    verb = ("ask" if head.kind == SPANS else "classify") if head else "embed" if isinstance(model, Embeds) else "sample"
    return Imported(described.family, count, [path for path in initial if path in shapes], verb)


def _named(source: Source, described: configs.Described) -> str:
    """Return the class that a directory says it is of, and those with heads that are known of its family."""
    known = [found.name for found in labelled.CLASSES.get(described.family, {}).values()]
    said = choices(map(str, source.config.get("architectures") or [f"{source.path.name}, a {described.family}"]))
    plain = lookup(configs.FIELDS, described.family, "family").architecture
    return said if said in (plain, *known) or not known else f"{said} (known with heads for labels: {choices(known)})"


def configuration(
    described: configs.Described, source: Source, head: Head | None, overrides: Sequence[tuple[str, str]] = ()
) -> Config:
    """Return the configuration of an imported run; it names no text, as nothing is known of it."""
    row = min(described.context or ROW, ROW)
    kind = {"name": source.tokenizer.kind if source.tokenizer else "bytes"}
    recipe: dict[str, Any] = {
        "model": {"name": described.family, **described.fields},
        "data": {"source": None, "tokenizer": kind, "seq_len": row, "batch_size": 4},
        "sample": sampling(source.generation),
    }
    if head is not None:
        recipe["model"] |= head.fields(described.fields)
        recipe["objective"], recipe["data"]["form"] = models.domestic(head)
    return resolve(recipe, overrides)


def sampling(generation: Mapping[str, Any]) -> dict[str, Any]:
    """Return our section `sample` of Hugging Face's defaults of generation, as far as they say anything."""
    if not generation or generation.get("_from_model_config"):
        return {}
    if not generation.get("do_sample"):
        return {"temperature": 0.0}
    named = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    found = {name: usual if (v := generation.get(name)) is None else v for name, usual in named.items()}
    return found | {"top_k": found["top_k"] or None}


def completed(
    leaves: Iterable[tuple[str, np.ndarray]], declared: Mapping[str, Declaration], initial: list[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield leaves as they come, then the initial values of what did not come; its paths go into `initial`."""
    missing = dict(declared)
    for path, leaf in leaves:
        del missing[path]
        yield path, leaf
        del leaf  # before the next one is made
    for path, d in missing.items():
        initial.append(path)
        (drawn,) = tree.flatten(initialize({path: d}, jax.random.key(0))).values()
        yield path, np.asarray(drawn)


def _declared(model: Any) -> Mapping[str, Declaration]:
    """Return the parameters that a model declares, traced: nothing is compiled for the constants of its layers."""
    found: list[Mapping[str, Declaration]] = []
    jax.eval_shape(lambda: found.append(model.declarations()))
    return found[0]


def _about(source: Source, described: configs.Described) -> dict[str, Any]:
    return {
        "llm_jax": __version__,
        "command": ["llm_jax", *sys.argv[1:]],
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "host": socket.gethostname(),
        "imported": {
            "source": source.path.name, "kind": source.kind, "context": described.context, "dtype": described.dtype
        },
        "started": time.time(),
    }  # fmt: skip


def _write(
    workdir: Workdir,
    config: Config,
    declared: Mapping[str, Declaration],
    leaves: Iterable[tuple[str, np.ndarray]],
    words: Tokenizer | None,
    source: Source,
    about: dict[str, Any],
) -> None:
    """Write everything, config.json last: without it a directory is no workdir."""
    with Checkpoints(workdir.checkpoints) as saved:
        meta = {"config_hash": config.hash(), "code_version": __version__}
        forms = {f"params/{path}": Leaf(d.shape, d.dtype) for path, d in declared.items()}
        saved.stream(0, forms, map(lambda item: (f"params/{item[0]}", item[1]), leaves), meta=meta)
    if words is not None:
        words.save(workdir.tokenizer)
        if is_local(workdir.path):
            sync_tree(workdir.tokenizer)
    if source.template is not None:
        write_text(workdir.template, source.template)
    if source.generation:
        write_json(workdir.generation, source.generation)
    write_json(workdir.run, about)
    write_json(workdir.config, config.values)
