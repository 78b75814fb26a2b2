"""A run's parameters for other programs: from a workdir, or in the middle of training."""

import dataclasses
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from llm_jax.adapt.adapted import Adapted, merged
from llm_jax.adapt.dora import lengths
from llm_jax.adapt.headed import Headed
from llm_jax.adapt.packed import Packed
from llm_jax.core import tree
from llm_jax.core.table import UserError, choices, lookup
from llm_jax.core.types import Counts, Model, State
from llm_jax.data.examples.forms import Around
from llm_jax.interop import configs
from llm_jax.interop.arpa.writer import orders, write
from llm_jax.interop.peft import Adapter, peft
from llm_jax.interop.save import Export
from llm_jax.learn.ema import averaged
from llm_jax.mesh import hosts
from llm_jax.optim.masks import layout
from llm_jax.run.build import Run
from llm_jax.run.open_run import OpenRun
from llm_jax.run.parts import models
from llm_jax.store.files import read_json
from llm_jax.store.workdir import Workdir
from llm_jax.text import cache as folders
from llm_jax.text.base import Tokenizer

FORMATS = {"hf": "llm_jax.interop.save:hf", "gguf": "llm_jax.interop.gguf.writer:gguf"}
"""Format -> function (folder, Export, leaves) that fills an empty folder."""

HEADED = ("hf", "peft")  # formats that have heads for labels


def export(
    opened: OpenRun, to: str, *, form: str = "hf", step: int | None = None, dtype: str = "float32", words: bool = True
) -> Export:
    """Write a checkpoint of a workdir for other programs; on failure nothing is left.

    Packed kernels are unpacked: other programs compute what ours does, from files as large as before.

    Args:
        opened: the run.
        to: a directory that is not there, or is empty.
        form: a key of `FORMATS`, or "peft": of a run with an adapter, that alone.
        step: which checkpoint (default: the newest).
        dtype: of the tensors.
        words: with the tokenizer.

    Raises:
        UserError: the place is taken, or the model or tokenizer cannot be expressed in the format.
    """
    where = Path(os.path.abspath(Path(to).expanduser()))
    if where.exists() and (not where.is_dir() or any(where.iterdir())):
        raise UserError(f"--to={to} is there and not empty; name another, or remove it")
    model = opened.model.base if isinstance(opened.model, Packed) else opened.model
    if hasattr(opened.objective, "head") and (form not in HEADED or not isinstance(model, Headed)):
        raise UserError(
            f"{opened.workdir.path} learnt labels; heads for them are exported with --format={choices(HEADED)}, of "
            "models that are learnt by gradients (hf merges an adapter, peft is the adapter alone)"
        )
    _check_family(opened.resolved.values["model"]["name"])
    write = _writer(opened, form, step)
    tokenizer = opened.tokenizer if words and opened.workdir.tokenizer.exists() else None
    what = described(opened.resolved.values, model, opened.workdir, dtype, tokenizer)
    what.names()
    try:
        folders.publish(where, lambda folder: write(folder, what))
    except OSError as error:
        raise UserError(f"--to={to} cannot be written: {error.strerror or error}") from None
    return what


def _check_family(name: str) -> None:
    """Refuse a family for which other programs have no class."""
    if name not in configs.FIELDS:
        raise UserError(
            f"model.name={name!r} has no class in transformers; n-grams are exported with --format=arpa, and "
            f"llm_jax.open_run(WORKDIR).params() has the arrays of any run. Families that are exported: "
            f"{choices(configs.FIELDS)}"
        )


def arpa(opened: OpenRun, to: str, step: int | None = None) -> int:
    """Write a counted model as an ARPA file, and return how many n-grams it has.

    Raises:
        UserError: the model is none of n-grams, or the file is there.
    """
    if not isinstance(opened.model, Counts) or hasattr(opened.objective, "head"):
        name = opened.resolved.values["model"]["name"]
        raise UserError(f'--format=arpa is for model.name="ngram"; this is {name!r}')
    where = Path(to).expanduser()
    if where.exists():
        raise UserError(f"--to={to} is there; name another, or remove it")
    found = orders(opened.model, opened.params(step))
    where.parent.mkdir(parents=True, exist_ok=True)
    unfinished = where.with_name(f"{where.name}.tmp-{os.getpid()}")
    try:
        write(unfinished, found)
        unfinished.rename(where)
    finally:
        unfinished.unlink(missing_ok=True)
    return sum(len(part.tokens) for part in found)


def _writer(opened: OpenRun, form: str, step: int | None) -> Callable[[Path, Export], None]:
    """Return the function that fills a folder with an export: all parameters, an adapter merged; or the adapter alone.

    Raises:
        UserError: an unknown format, or the adapter of a run that has none.
    """
    if form != "peft":
        write = lookup(FORMATS, form, "--format")
        return lambda folder, what: write(folder, what, opened.leaves(what.paths(), step))
    model = opened.trained
    if not isinstance(model, Adapted):
        raise UserError(f"--format=peft: {opened.workdir.path} was trained without config.adapt; try --format=hf")

    kind = model.kind

    def whole(path: str) -> np.ndarray:
        return next(opened.leaves([path], step))[1]

    @cache
    def unchanged(path: str) -> np.ndarray:
        leaf = whole(path)
        return np.asarray(lengths(leaf, layout(path, leaf.shape)))

    def alone(folder: Path, what: Export) -> None:
        parts = dict(opened.adapters(step))
        peft(folder, what, Adapter(kind.rank, kind.scale * kind.rank, kind.dropout, parts, unchanged, whole))

    return alone


def during(run: Run, workdir: Workdir, step: int, state: State) -> None:
    """Write exports/STEP of a run in training; it appears whole or not at all. All processes call this."""
    section = run.sections.export
    model, whole = merged(run.model, averaged(state))
    what, params = described(run.config.values, model, workdir, section.dtype, run.tokenizer), tree.flatten(whole)
    stream = ((path, hosts.whole(params[path])) for path in what.paths())
    if not hosts.is_first():
        for _ in stream:
            pass
        return
    write = lookup(FORMATS, section.format, "export.format")
    where = Path(workdir.exports / str(step))
    for killed in where.parent.glob("*.tmp-*"):  # no other job writes here: the run holds the lock of its checkpoints
        shutil.rmtree(killed, ignore_errors=True)
    folders.publish(where, lambda folder: write(folder, what, stream), replace=True)


def described(
    values: dict[str, Any], model: Model, workdir: Workdir, dtype: str, tokenizer: Tokenizer | None
) -> Export:
    """Return what an export needs to know beside the arrays.

    Raises:
        UserError: other programs would read it otherwise, or `transformers` has no such head for labels.
    """
    models.alike_abroad(values, model)
    family, shapes, head = models.foreign(values, model)
    about = read_json(workdir.run).get("imported", {}) if workdir.run.exists() else {}
    framed = (values["data"]["form"] or {}).get("framed", True)
    return Export(
        family=values["model"]["name"],
        fields=dataclasses.asdict(family),
        shapes=shapes,
        context=about.get("context") or values["data"]["seq_len"],
        dtype=dtype,
        tokenizer=tokenizer,
        template=workdir.template.read_text() if workdir.template.exists() else None,
        generation=read_json(workdir.generation) if workdir.generation.exists() else {},
        layers=family.stacks() if hasattr(family, "stacks") else {},
        head=head,
        frame=Around(tokenizer, 0, 0).frame if head is not None and tokenizer is not None and framed else ((), ()),
    )


def check(section: Any, family: str, workdir: Workdir) -> None:
    """Refuse exports during training that could not be written, before any work is done.

    Raises:
        UserError: an unknown format or family, or a workdir that is not on a local disk.
    """
    if not section.every:
        return
    lookup(FORMATS, section.format, "export.format")
    _check_family(family)
    if "://" in str(workdir.path):
        raise UserError(f"export.every={section.every} needs a workdir on a local disk, not {workdir.path}")
