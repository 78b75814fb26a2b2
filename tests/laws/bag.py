"""The smallest model of a text given another: a token's scores come from it and from the mean of the source."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax.tree_util import Partial

from llm_jax.core import tree
from llm_jax.core.types import Declaration, Outputs
from llm_jax.nn.initial import normal


@dataclass(frozen=True)
class Bag:
    vocab_size: int
    embed_dim: int

    def declarations(self):
        shape = (self.vocab_size, self.embed_dim)
        return {name: Declaration(shape, ("vocab", "embed"), normal(0.1)) for name in ("source", "embed", "head")}

    def init(self, key):
        return tree.unflatten({p: d.init(key, d.shape) for p, d in self.declarations().items()})

    def encode(self, params, batch, *, key=None):
        return params["source"][jnp.asarray(batch["source_tokens"])]

    def apply(self, params, batch, *, key=None):
        hidden = params["embed"][jnp.asarray(batch["tokens"])]
        if "source_tokens" in batch:
            real = jnp.asarray(batch["source_segments"] > 0, jnp.float32)[..., None]
            hidden = hidden + (self.encode(params, batch) * real).sum(1, keepdims=True) / jnp.maximum(
                real.sum(1, keepdims=True), 1
            )
        return Outputs(hidden, Partial(lambda table, x: x @ table.T, params["head"]))
