"""Each parameter is declared once, beside its use: `weight(self, name, shape, axes, init)` in a Linen module.

Run in recording mode, the same line yields the `Declaration` from which initial values, abstract shapes, shardings and
tables derive. A value's key folds in its path, so that adding one parameter does not change the others.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from flax import linen as nn

from llm_jax.core import keys, tree
from llm_jax.core.types import Array, Declaration, Key, Params
from llm_jax.mesh.place import gathered, place


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Made:
    """Stands in the place of a parameter that is computed of others where it is used, layer by layer.

    parts: arrays, of stacked layers each with the leading axis `layer`. make: parts -> the parameter, of one layer.
    brief: whether it is made anew for the gradient rather than kept, as it is much larger than its parts.
    """

    parts: Any
    make: Callable[[Any], Array] = field(metadata={"static": True})
    brief: bool = field(default=False, metadata={"static": True})


_RECORD: ContextVar[dict[str, Declaration] | None] = ContextVar("declarations", default=None)


def weight(
    module: nn.Module,
    name: str,
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
    init: Callable[[Key, tuple[int, ...]], Array],
    *,
    share: float = 1.0,
    exact: bool = False,
) -> Array:
    """Declare a parameter of `module` and return it as it is used: in the compute dtype, gathered along `embed`.

    With `exact` it stays as it is stored, float32: what an exponential or a long sum would blow the rounding of up.
    """
    record = _RECORD.get()
    if record is not None:
        record["/".join((*module.path, name))] = Declaration(shape, axes, init, share)
    held: Any = module.get_variable("params", name)
    value = held.make(held.parts) if isinstance(held, Made) else module.param(name, init, shape)
    return gathered(value, axes, exact=exact)


def brief(params: Any) -> bool:
    """Whether some parameter is made anew for the gradient."""
    leaves = jax.tree.leaves(params, is_leaf=lambda leaf: isinstance(leaf, Made))
    return any(isinstance(leaf, Made) and leaf.brief for leaf in leaves)


def declarations(module: nn.Module, *inputs: Any, layers: int | None = None, **named: Any) -> dict[str, Declaration]:
    """Return {path: Declaration} of a module, traced abstractly on `inputs`.

    With `layers` each is stacked so many times on a leading axis `layer`.
    """
    record: dict[str, Declaration] = {}
    token = _RECORD.set(record)
    try:
        jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, **named))
    finally:
        _RECORD.reset(token)
    if layers is None:
        return record
    return {p: replace(d, shape=(layers, *d.shape), axes=("layer", *d.axes)) for p, d in record.items()}


def under(**parts: Mapping[str, Declaration]) -> dict[str, Declaration]:
    """Return the declarations of named parts of a model as one table of paths."""
    return {f"{name}/{path}": d for name, part in parts.items() for path, d in part.items()}


def initialize(declared: Mapping[str, Declaration], key: Key) -> Params:
    """Return the initial values: a nested dictionary of arrays, laid out by the active plan."""
    return tree.unflatten({path: place(_draw(d, keys.fold(key, path)), *d.axes) for path, d in declared.items()})


def _draw(d: Declaration, key: Key) -> Array:
    if d.axes[:1] != ("layer",):
        return d.init(key, d.shape).astype(d.dtype)
    return jax.vmap(lambda k: d.init(k, d.shape[1:]).astype(d.dtype))(jax.random.split(key, d.shape[0]))
