"""A new run that begins from the parameters of another: as they are, or as far as they fit."""

from typing import Any

import jax
import numpy as np

from llm_jax.adapt.graft import graft
from llm_jax.adapt.packed import Packed
from llm_jax.core import tree
from llm_jax.core.table import UserError
from llm_jax.core.types import Adapted, Model, Params, State
from llm_jax.learn.begin import begun
from llm_jax.run.open_run import OpenRun, abstract_params, open_run


def begun_from(new: State, model: Model, source: str | None) -> State:
    """Return a new state with the parameters of the workdir `source`; None leaves it as it is.

    An adapter is new, beside the source's parameters; those of an adapted source are merged.

    Raises:
        UserError: the source is no run, or its model is another; the first differences are listed.
    """
    if source is None:
        return new
    opened = open_run(source)
    check_source(opened)
    if not isinstance(model, Adapted):
        return begun(new, _fitted(opened, model))
    base = _fitted(opened, model.base)
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


def _fitted(opened: OpenRun, model: Model) -> Params:
    """Return the parameters of a run as `model` has them, laid out by the active plan: restored at once, or grafted."""
    wanted = abstract_params(model)
    theirs, declared = opened.model.declarations(), model.declarations()
    grown = [p for p, d in declared.items() if p in theirs and theirs[p].shape != d.shape and "vocab" in d.axes]
    if not grown:
        return opened.params(abstract=wanted)
    found = graft(dict(opened.leaves(theirs)), declared)
    return tree.map_with_path(lambda path, w: _put(found[path], w), wanted)


def _put(leaf: np.ndarray, wanted: Any) -> Any:
    return jax.make_array_from_callback(wanted.shape, wanted.sharding, lambda index: leaf[index])
