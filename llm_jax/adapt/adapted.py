"""A model over another whose parameters are frozen: those of the other, and an adapter of chosen kernels beside them.

Parameters are {"base": those of the model, "adapter": {path of a kernel: its few}}. Whoever has no use for the two
apart asks for `merge`, and has parameters of the plain model.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax

from llm_jax.adapt.lora import Lora
from llm_jax.core import keys, tree
from llm_jax.core.table import UserError, nearest
from llm_jax.core.types import Array, Batch, Cache, Declaration, Decodes, Key, Model, Outputs, Params
from llm_jax.nn import declare
from llm_jax.optim.masks import Layout, layout

SHOWN = 12


@dataclass(frozen=True)
class Adapted:
    """A model whose kernels at `targets` (regular expressions, searched in paths) change as `kind` says.

    Attributes that a family has beside those of a `Model` (sizes, stacks) are those of `base`.
    """

    base: Model
    kind: Lora
    targets: tuple[str, ...]
    learnt = ("adapter",)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("base", "empty_cache", "prefill", "extend", "sample"):
            raise AttributeError(name)
        return getattr(self.base, name)

    @cached_property
    def chosen(self) -> dict[str, tuple[Declaration, Layout]]:
        """The kernels that change: {path: (declaration, how it is read as matrices)}.

        Raises:
            UserError: a pattern matches no kernel.
        """
        kernels = {}
        for path, d in self.base.declarations().items():
            form = layout(path, d.shape)
            if form.is_matrix:
                kernels[path] = d, form
        for pattern in self.targets:
            if not any(re.search(pattern, path) for path in kernels):
                few = ", ".join(list(kernels)[:SHOWN])
                raise UserError(
                    f"adapt.targets: {pattern!r} matches none of the kernels {few}{nearest(pattern, kernels)}"
                )
        return {p: found for p, found in kernels.items() if any(re.search(pattern, p) for pattern in self.targets)}

    def declarations(self) -> dict[str, Declaration]:
        """Every parameter by path: the model's below `base`, the new ones below `adapter`."""
        added = {
            f"{path}/{name}": part
            for path, found in self.chosen.items()
            for name, part in self.kind.declarations(*found).items()
        }
        return declare.under(base=self.base.declarations(), adapter=added)

    def init(self, key: Key) -> Params:
        """Initial values: the model's own, and an adapter that changes nothing."""
        added = {p: d for p, d in self.declarations().items() if p.startswith("adapter/")}
        return self.attach(declare.initialize(added, key), self.base.init(key))

    def attach(self, params: Params, base: Params) -> Params:
        """Return parameters with a new adapter of `params` beside those of the model, of which it changes nothing."""
        kernels, fresh = tree.flatten(base), _gathered(params["adapter"])
        begun = {
            f"{path}/{name}": leaf
            for path, (_, form) in self.chosen.items()
            for name, leaf in self.kind.begin(kernels[path], fresh[path], form).items()
        }
        return {"base": base, "adapter": tree.unflatten(begun)}

    def merge(self, params: Params, *, key: Key | None = None) -> Params:
        """Return the parameters of `base` that compute what these do; with a key, as they are used in training."""
        whole, parts = tree.flatten(params["base"]), _gathered(params["adapter"])
        for path in parts:
            whole[path] = self.kernel(path, whole[path], parts[path], key=key)
        return tree.unflatten(whole)

    def kernel(self, path: str, kernel: Array, parts: Mapping[str, Array], *, key: Key | None = None) -> Array:
        """Return one kernel as it is used."""
        declared, form = self.chosen[path]
        folded = None if key is None else keys.fold(key, path)
        return self.kind.merge(kernel, parts, form, declared.axes, folded)

    def apply(self, params: Params, batch: Batch, *, key: Key | None = None) -> Outputs:
        """Outputs of a whole batch."""
        return self.base.apply(self.merge(params, key=key), batch, key=key)


@dataclass(frozen=True)
class AdaptedDecoder(Adapted):
    """One that continues a text. Each call merges anew: for many tokens, merge once and call the plain model."""

    base: Decodes

    def empty_cache(self, batch_size: int, max_len: int) -> Cache:
        """A cache for `max_len` tokens."""
        return self.base.empty_cache(batch_size, max_len)

    def prefill(self, params: Params, batch: Batch, cache: Cache) -> tuple[Outputs, Cache]:
        """Read whole prompts into an empty cache."""
        return self.base.prefill(self.merge(params), batch, cache)

    def extend(self, params: Params, tokens: Array, cache: Cache) -> tuple[Outputs, Cache]:
        """Read tokens [B,n] that follow those in the cache."""
        return self.base.extend(self.merge(params), tokens, cache)


def adapted(model: Model, kind: Lora, targets: tuple[str, ...]) -> Adapted:
    """Return the model with an adapter.

    Raises:
        UserError: a pattern of `targets` matches no kernel.
    """
    made = (AdaptedDecoder if isinstance(model, Decodes) else Adapted)(model, kind, targets)  # type: ignore[arg-type]
    assert made.chosen  # looked up here, so that a pattern that matches nothing is refused here
    return made


def merged(model: Model, params: Params) -> tuple[Model, Params]:
    """Return a model and its parameters without an adapter: merged where there is one, else the same two."""
    return (model.base, jax.jit(model.merge)(params)) if isinstance(model, Adapted) else (model, params)


def _gathered(adapter: Params) -> dict[str, dict[str, Array]]:
    """Return {path of a kernel: its parameters} of the nested tree of an adapter."""
    found: dict[str, dict[str, Array]] = {}
    for path, leaf in tree.flatten(adapter).items():
        kernel, _, name = path.rpartition("/")
        found.setdefault(kernel, {})[name] = leaf
    return found
