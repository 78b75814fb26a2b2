"""A model over another whose parameters are frozen: those of the other, and an adapter of chosen kernels beside them.

Parameters are {"base": those of the model, "adapter": {path of a kernel: its few}}. Whoever has no use for the two
apart asks for `merge`, and has parameters of the plain model.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax

from llm_jax.adapt import decoding
from llm_jax.adapt.lora import Lora
from llm_jax.adapt.pack import Packing
from llm_jax.core import keys, tree
from llm_jax.core.table import UserError, nearest
from llm_jax.core.types import Array, Batch, Declaration, Decodes, Key, Model, Outputs, Params
from llm_jax.nn import declare
from llm_jax.optim.masks import Layout, layout

SHOWN = 12


@dataclass(frozen=True)
class Use:
    """How a kernel is made of what is stored: unpacked, if it is packed, and changed, if it is a target."""

    declared: Declaration
    layout: Layout
    packing: Packing | None
    kind: Lora | None

    def __call__(self, parts: Params) -> Array:
        """Return the kernel of {"kernel": what is stored of it, "change": the adapter's, if it is a target}."""
        stored = parts["kernel"]
        kernel = stored if self.packing is None else self.packing.unpack(stored, self.layout)
        if self.kind is None:
            return kernel
        return self.kind.merge(kernel, parts["change"], self.layout, self.declared.axes)

    def of_a_layer(self) -> "Use":
        """The same of one layer, without the leading axis."""
        if self.declared.axes[:1] != ("layer",):
            return self
        d = replace(self.declared, shape=self.declared.shape[1:], axes=self.declared.axes[1:])
        return replace(self, declared=d, layout=self.layout._replace(batch=self.layout.batch - 1))


@dataclass(frozen=True)
class Adapted:
    """A model whose kernels at `targets` (regular expressions, searched in paths) change as `kind` says.

    With a packing the kernels of stacked layers, targets or not, are kept in few bits, and layers are recomputed for
    the gradient, as the QLoRA paper does: else each would leave its whole kernels behind. Attributes that a family has
    beside those of a `Model` (sizes, stacks) are those of `base`.
    """

    base: Model
    kind: Lora
    targets: tuple[str, ...]
    packing: Packing | None = None
    learnt = ("adapter",)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("base", "empty_cache", "prefill", "extend", "sample"):
            raise AttributeError(name)
        return getattr(self.base, name)

    @cached_property
    def uses(self) -> dict[str, Use]:
        """The kernels that are not used as they are stored, by path.

        Raises:
            UserError: a pattern matches no kernel.
        """
        kernels = {path: (d, layout(path, d.shape)) for path, d in self.base.declarations().items()}
        kernels = {path: (d, form) for path, (d, form) in kernels.items() if form.is_matrix}
        for pattern in self.targets:
            if not any(re.search(pattern, path) for path in kernels):
                few = ", ".join(list(kernels)[:SHOWN])
                raise UserError(
                    f"adapt.targets: {pattern!r} matches none of the kernels {few}{nearest(pattern, kernels)}"
                )
        found = {}
        for path, (d, form) in kernels.items():
            packing = self.packing if self.packing and self.packing.suits(d, form) else None
            kind = self.kind if any(re.search(pattern, path) for pattern in self.targets) else None
            if packing or kind:
                found[path] = Use(d, form, packing, kind)
        return found

    @cached_property
    def chosen(self) -> dict[str, Use]:
        """The kernels that change, by path."""
        return {path: use for path, use in self.uses.items() if use.kind}

    def declarations(self) -> dict[str, Declaration]:
        """Every parameter by path: the model's below `base`, as they are stored, the new ones below `adapter`."""
        stored: dict[str, Declaration] = {}
        added: dict[str, Declaration] = {}
        for path, d in self.base.declarations().items():
            use = self.uses.get(path)
            parts = use.packing.declarations(d, use.layout) if use and use.packing else {"": d}
            stored |= {f"{path}/{name}".rstrip("/"): part for name, part in parts.items()}
        for path, use in self.chosen.items():
            added |= {f"{path}/{name}": d for name, d in self.kind.declarations(use.declared, use.layout).items()}
        return declare.under(base=stored, adapter=added)

    def init(self, key: Key) -> Params:
        """Initial values: the model's own, and an adapter that changes nothing."""
        added = {p: d for p, d in self.declarations().items() if p.startswith("adapter/")}
        return self.attach(declare.initialize(added, key), self.base.init(key))

    def attach(self, params: Params, base: Params) -> Params:
        """Return parameters with a new adapter of `params` beside those of the model, of which it changes nothing."""
        stored, fresh = tree.flatten(base), _gathered(params["adapter"])
        begun: dict[str, Array] = {}
        for path, use in self.uses.items():
            kernel = stored[path]
            if use.packing:
                packed = use.packing.pack(stored.pop(path), use.layout)
                kernel = use.packing.unpack(packed, use.layout)
                stored |= {f"{path}/{name}": leaf for name, leaf in packed.items()}
            if use.kind:
                parts = use.kind.begin(kernel, fresh[path], use.layout)
                begun |= {f"{path}/{name}": leaf for name, leaf in parts.items()}
        return {"base": tree.unflatten(stored), "adapter": tree.unflatten(begun)}

    def merge(self, params: Params) -> Params:
        """Return the parameters of `base` that compute what these do."""
        return self._in_place(params, lambda use, parts: use(parts))

    def in_use(self, params: Params, *, key: Key | None = None) -> Params:
        """Return parameters of `base` whose kernels are made where they are used; with a key, with dropout."""

        def made(use: Use, parts: Params) -> declare.Made:
            return declare.Made(parts, use.of_a_layer(), brief=use.packing is not None)

        return self._in_place(params, made, key)

    def _in_place(self, params: Params, make: Callable[[Use, Params], Any], key: Key | None = None) -> Params:
        whole, changes = tree.flatten(params["base"]), _gathered(params["adapter"])
        for path, use in self.uses.items():
            packed = ("codes", "scales")
            stored = {name: whole.pop(f"{path}/{name}") for name in packed} if use.packing else whole[path]
            parts = {"kernel": stored}
            if use.kind:
                parts["change"] = use.kind.drop(changes[path], None if key is None else keys.fold(key, path))
            whole[path] = make(use, parts)
        return tree.unflatten(whole)

    def apply(self, params: Params, batch: Batch, *, key: Key | None = None) -> Outputs:
        """Outputs of a whole batch."""
        return self.base.apply(self.in_use(params, key=key), batch, key=key)


@dataclass(frozen=True)
class AdaptedDecoder(Adapted):
    """One that continues a text. Each call makes its kernels anew: for many tokens, `merge` once."""

    base: Decodes

    empty_cache = decoding.empty_cache
    prefill = decoding.prefill
    extend = decoding.extend


def adapted(model: Model, kind: Lora, targets: tuple[str, ...], packing: Packing | None = None) -> Adapted:
    """Return the model with an adapter.

    Raises:
        UserError: a pattern of `targets` matches no kernel.
    """
    made = (AdaptedDecoder if isinstance(model, Decodes) else Adapted)(model, kind, targets, packing)  # type: ignore[arg-type]
    assert made.chosen  # looked up here, so that a pattern that matches nothing is refused here
    return made


def unadapted(model: Model) -> Model:
    """Return a model without its adapter, where it has one."""
    return model.base if isinstance(model, Adapted) else model


def merged(model: Model, params: Params) -> tuple[Model, Params]:
    """Return a model and its parameters without an adapter: merged where there is one, else the same two."""
    return unadapted(model), jax.jit(model.merge)(params) if isinstance(model, Adapted) else params


def _gathered(adapter: Params) -> dict[str, dict[str, Array]]:
    """Return {path of a kernel: its parameters} of the nested tree of an adapter."""
    found: dict[str, dict[str, Array]] = {}
    for path, leaf in tree.flatten(adapter).items():
        kernel, _, name = path.rpartition("/")
        found.setdefault(kernel, {})[name] = leaf
    return found
