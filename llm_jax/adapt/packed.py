"""A model that is done with learning, the kernels of its layers kept in few bits and unpacked layer by layer.

Each weight is rounded to the nearest level of its group or channel, without any data (Zafrir et al. 2019, "Q8BERT",
arXiv:1910.06188, section 2.1; in groups Dettmers and Zettlemoyer 2022, "The case for 4-bit precision",
arXiv:2212.09720). A table of embeddings, and an output head, may be int8 with a scale for each token (Q8BERT too);
norms and biases stay as they are.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llm_jax.adapt import decoding
from llm_jax.adapt.adapted import Use
from llm_jax.adapt.pack import Packing
from llm_jax.core import tree
from llm_jax.core.table import UserError
from llm_jax.core.types import (
    Array,
    Batch,
    Conditional,
    Counts,
    Declaration,
    Decodes,
    Key,
    Model,
    Outputs,
    Params,
    Samples,
)
from llm_jax.nn import declare
from llm_jax.optim.masks import Layout, layout

TABLE = ("vocab", "embed")  # the logical axes of a table with a row for each token
ROWS = Layout(batch=1, inputs=1, outputs=0)  # of it: each row has a scale of its own


@dataclass(frozen=True)
class Packed:
    """A model of the parameters of `base`, but {"codes", "scales"} in the place of each kernel of its layers.

    embeddings: how tables with a row for each token are kept, None for float32.
    """

    base: Model
    packing: Packing
    embeddings: Packing | None = None

    @cached_property
    def uses(self) -> dict[str, Use]:
        """How each packed kernel is made of what is stored, by path."""
        found = {}
        for path, d in self.base.declarations().items():
            form = layout(path, d.shape)
            if self.packing.suits(d, form):
                found[path] = Use(d, form, self.packing, None)
            elif self.embeddings and d.axes == TABLE:
                found[path] = Use(d, ROWS, self.embeddings, None)
        return found

    def declarations(self) -> dict[str, Declaration]:
        """Every parameter by path, as it is stored."""
        stored: dict[str, Declaration] = {}
        for path, d in self.base.declarations().items():
            use = self.uses.get(path)
            parts = use.packing.declarations(d, use.layout) if use and use.packing else {"": d}
            stored |= {f"{path}/{name}".rstrip("/"): part for name, part in parts.items()}
        return stored

    def init(self, key: Key) -> Params:
        """Initial values of `base`, packed."""
        whole = tree.flatten(self.base.init(key))
        return tree.unflatten({p: x for path, leaf in whole.items() for p, x in self.pack(path, leaf).items()})

    def pack(self, path: str, leaf: Array) -> dict[str, Array]:
        """Return {path: what is stored} of one parameter of `base`."""
        use = self.uses.get(path)
        if use is None or use.packing is None:
            return {path: leaf}
        return {f"{path}/{name}": part for name, part in use.packing.pack(leaf, use.layout).items()}

    def in_use(self, params: Params) -> Params:
        """Return parameters of `base` whose kernels are unpacked where they are used, and not kept.

        A stack may be a tuple of its layers, as `decode.sample.unstacked` makes it.
        """
        made = dict(params)
        for name in {path.split("/")[0] for path in self.uses}:
            part = params[name]
            made[name] = tuple(self._made(name, p) for p in part) if isinstance(part, tuple) else self._made(name, part)
        return made

    def _made(self, name: str, stack: Params) -> Params:
        whole = tree.flatten(stack)
        for path, use in self.uses.items():
            first, _, rest = path.partition("/")
            if first == name:
                stored = {part: whole.pop(f"{rest}/{part}") for part in ("codes", "scales")}
                whole[rest] = declare.Made({"kernel": stored}, use.of_a_layer(), brief=True)
        return tree.unflatten(whole)

    def apply(self, params: Params, batch: Batch, *, key: Key | None = None) -> Outputs:
        """Outputs of a whole batch."""
        return self.base.apply(self.in_use(params), batch, key=key)

    def __getattr__(self, name: str) -> Any:
        if name not in ("stacks", "max_positions", "vocab_size", "labels"):
            raise AttributeError(name)
        return getattr(self.base, name)


@dataclass(frozen=True)
class PackedDecoder(Packed):
    """One that continues a text."""

    base: Decodes

    empty_cache = decoding.empty_cache
    prefill = decoding.prefill
    extend = decoding.extend


def packed(model: Model, packing: Packing, embeddings: Packing | None = None) -> Packed:
    """Return a model with the kernels of its layers in few bits, and maybe its tables of embeddings.

    Raises:
        UserError: it is of a kind that cannot be packed, or has no kernels that can.
    """
    kind = type(model).__name__
    if isinstance(model, Counts | Samples | Conditional):
        raise UserError(f"--quantize={packing.form}: {kind} cannot be packed; decoders and encoders can")
    made = (PackedDecoder if isinstance(model, Decodes) else Packed)(model, packing, embeddings)  # type: ignore[arg-type]
    if not any(use.layout.is_matrix for use in made.uses.values()):
        raise UserError(f"--quantize={packing.form}: {kind} has no stacked kernels with an even number of inputs")
    return made
