"""A new run that begins from the parameters of another: as they are, or as far as they fit."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from llm_jax.adapt.graft import graft
from llm_jax.adapt.headed import HEAD, Headed
from llm_jax.adapt.packed import Packed
from llm_jax.core import tree
from llm_jax.core.table import UserError
from llm_jax.core.types import Adapted, Model, Params, State
from llm_jax.learn.begin import begun
from llm_jax.run.open_run import OpenRun, abstract_params, open_run
from llm_jax.run.sections import Data
from llm_jax.store.files import read_json, write_json, write_text
from llm_jax.store.workdir import Workdir


def begun_from(new: State, model: Model, source: str | None) -> State:
    """Return a new state with the parameters of the workdir `source`; None leaves it as it is.

    An adapter is new, beside the source's parameters; those of an adapted source are merged. A head for labels is new
    too, unless the source has one for the same.

    Raises:
        UserError: the source is no run, or its model is another; the first differences are listed.
    """
    if source is None:
        return new
    opened = open_run(source)
    check_source(opened)
    if not isinstance(model, Adapted):
        return begun(new, _with_head(opened, model, new.params))
    base = _with_head(opened, model.base, new.params["base"])
    where = jax.tree.map(lambda x: x.sharding, new.params)
    return begun(new, jax.jit(model.attach, out_shardings=where)(new.params, base))


def check_source(opened: OpenRun) -> None:
    """Refuse to begin from what was rounded for good.

    Raises:
        UserError: the run's model is packed.
    """
    if isinstance(opened.model, Packed):
        raise UserError(
            f"init_from={str(opened.workdir.path)!r} holds a model packed in {opened.model.packing.form}, which is not "
            "trained; begin from the workdir that it was made of"
        )


def _with_head(opened: OpenRun, model: Model, fresh: Params) -> Params:
    """Return the parameters of a run as `model` has them; of a head for labels that the run has not, those of `fresh`.

    Nothing else may be missing.
    """
    if not isinstance(model, Headed) or _scores(opened.model) == _scores(model):
        return _fitted(opened, model)
    return {**_fitted(opened, model.base), HEAD: fresh[HEAD]}


def _scores(model: Model) -> tuple[Any, Any]:
    """Return what heads that fit one another have in common; that of a model without one fits none."""
    return getattr(model, "labels", None), getattr(model, "bias", None)


def template(data: Data, began: OpenRun | None, *, resumed: bool) -> str | None:
    """Return the chat template of a run: its own, else that of `data.form.template`, else that of where it begins.

    Raises:
        UserError: the file that the form names is not there.
    """
    path = None if resumed else (data.form or {}).get("template")
    if path is None:
        return None if began is None else began.template
    try:
        return Path(path).expanduser().read_text("utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"data.form.template={path!r} cannot be read: {error}") from None


def inherit(workdir: Workdir, source: str | None, template: str | None) -> None:
    """Write into a new workdir how conversations are written, and how the run that it begins from samples."""
    if template is not None:
        write_text(workdir.template, template)
    generation = None if source is None else Workdir(source).generation
    if generation is not None and generation.exists():
        write_json(workdir.generation, read_json(generation))


def _fitted(opened: OpenRun, model: Model) -> Params:
    """Return the parameters of a run as `model` has them, laid out by the active plan: restored at once, or grafted."""
    wanted = abstract_params(model)
    theirs, declared = opened.model.declarations(), model.declarations()
    if isinstance(opened.model, Headed) and not isinstance(model, Headed):
        theirs = opened.model.base.declarations()
    elif not [p for p, d in declared.items() if p in theirs and theirs[p].shape != d.shape and "vocab" in d.axes]:
        return opened.params(abstract=wanted)
    found = graft(dict(opened.leaves(theirs)), declared)
    return tree.map_with_path(lambda path, w: _put(found[path], w), wanted)


def _put(leaf: np.ndarray, wanted: Any) -> Any:
    return jax.make_array_from_callback(wanted.shape, wanted.sharding, lambda index: leaf[index])
