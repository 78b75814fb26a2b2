"""A decoder as its parts, whatever its blocks, and the methods that a family takes from it.

A family is a frozen dataclass with `_layers()`, which returns its `Layers`; the functions below are its methods
(`apply = layers.apply`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.tree_util import Partial
from jaxtyping import Array, Float

from llm_jax.core import keys
from llm_jax.core.types import Batch, Cache, Declaration, Key, Outputs, Params
from llm_jax.models.decoder.llama import Table
from llm_jax.nn import cache as caches
from llm_jax.nn import declare
from llm_jax.nn.attention import Context, context
from llm_jax.nn.dropout import dropout
from llm_jax.nn.linear import embed, logits
from llm_jax.nn.stack import through

Family = Any
Head = Callable[[Array], Array]


@dataclass(frozen=True)
class Layers:
    """kinds names each layer's stack of parameters, blocks has the block of each kind.

    norm: of what the last layer returns. scale: by which embeddings are multiplied. softcap: logits are
    softcap · tanh(logits / softcap), or None.
    """

    vocab_size: int
    width: int
    kinds: tuple[str, ...]
    blocks: Mapping[str, Any]
    norm: nn.Module
    dropout: float = 0.0
    tied: bool = False
    scale: float = 1.0
    softcap: float | None = None

    def declarations(self, carried: Any = None) -> dict[str, Declaration]:
        """Every parameter by path; `carried` is what the blocks pass on."""
        x, where = jnp.zeros((1, 1, self.width)), Context(jnp.zeros((1, 1), jnp.int32), None)
        parts = {"embed": declare.declarations(self._table())}
        for kind, numbers in self.stacks().items():
            parts[kind] = declare.declarations(self.blocks[kind], x, where, 0, carried, layers=len(numbers))
        parts["final_norm"] = declare.declarations(self.norm, x)
        return declare.under(**parts) if self.tied else declare.under(**parts, head=declare.declarations(self._table()))

    def stacks(self) -> dict[str, tuple[int, ...]]:
        """The numbers of each kind's layers, from 0, of kinds that have any."""
        found = {kind: tuple(i for i, k in enumerate(self.kinds) if k == kind) for kind in self.blocks}
        return {kind: numbers for kind, numbers in found.items() if numbers}

    def read(
        self, params: Params, batch: Batch, where: Context, carried: Any, key: Key | None, *, whole: bool
    ) -> tuple[Float[Array, "B T D"], Head, Any]:
        """Return the hidden states of a batch, the head that makes logits of them, and what the blocks passed on.

        carried, whole: as in `nn.stack.stack`.
        """
        table: Any = self._table().apply({"params": params["embed"]})
        x = embed(table, jnp.asarray(batch["tokens"], jnp.int32))
        x = x if self.scale == 1.0 else x * jnp.asarray(self.scale, x.dtype)
        x = dropout(x, self.dropout, None if key is None else keys.fold(key, "embed"))

        def layer(kind: str, p: Params, *inputs: Any) -> tuple[Array, Any]:
            return self.blocks[kind].apply({"params": p}, *inputs)

        x, carried = through(self.kinds, layer, params, x, where, carried, key, whole=whole)
        hidden: Any = self.norm.apply({"params": params["final_norm"]}, x)
        head: Any = table if self.tied else self._table().apply({"params": params["head"]})
        return hidden, Partial(self._scores, table=head), carried

    def forward(
        self, params: Params, batch: Batch, where: Context, cache: Cache = None, key: Key | None = None
    ) -> tuple[Outputs, Cache]:
        """Outputs of a batch and the cache after it, for blocks that pass on a cache alone."""
        carried = cache and cache.reserve(where.real())
        hidden, head, cache = self.read(params, batch, where, carried, key, whole=cache is None)
        return Outputs(hidden, head), cache and cache.advance(where.real())

    def _scores(self, hidden: Array, table: Array) -> Array:
        scores = logits(hidden, table)
        return scores if self.softcap is None else self.softcap * jnp.tanh(scores / self.softcap)

    def _table(self) -> Table:
        return Table(self.vocab_size, self.width)


def declarations(model: Family) -> dict[str, Declaration]:
    """Every parameter by path."""
    return model._layers().declarations()


def stacks(model: Family) -> dict[str, tuple[int, ...]]:
    """The numbers of the layers that each stack of parameters holds."""
    return model._layers().stacks()


def init(model: Family, key: Key) -> Params:
    """Initial values, as they are declared."""
    return declare.initialize(model.declarations(), key)


def apply(model: Family, params: Params, batch: Batch, *, key: Key | None = None) -> Outputs:
    """Outputs of a whole batch."""
    return model._layers().forward(params, batch, context(batch), key=key)[0]


def empty_cache(model: Family, batch_size: int, max_len: int) -> Cache:
    """A cache for `max_len` tokens."""
    layers: Layers = model._layers()
    each = [layers.blocks[kind].attention for kind in layers.kinds]
    windows = tuple(attention.window for attention in each)
    return caches.windowed(windows, batch_size, max_len, each[0].num_kv_heads, each[0].head_dim)


def prefill(model: Family, params: Params, batch: Batch, cache: Cache) -> tuple[Outputs, Cache]:
    """Read whole prompts into an empty cache."""
    return model._layers().forward(params, batch, context(batch, cache, prompt=True), cache)


def extend(model: Family, params: Params, tokens: Array, cache: Cache) -> tuple[Outputs, Cache]:
    """Read tokens [B,n] that follow those in the cache."""
    batch = {"tokens": tokens}
    return model._layers().forward(params, batch, context(batch, cache), cache)
