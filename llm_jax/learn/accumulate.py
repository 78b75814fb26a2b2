"""Gradient accumulation: one batch in k parts, added up exactly whatever the weights of each part."""

import jax
import jax.numpy as jnp

from llm_jax.core import keys
from llm_jax.core.types import Batch, GradientRule, Key, Mean, Params, Stats


def accumulate(rule: GradientRule, microbatches: int) -> GradientRule:
    """Return the rule that runs `rule` over `microbatches` equal parts of the rows, one after the other.

    Sums of gradients and of weights are added, not means: parts with unequal numbers of tokens give what the whole
    gives. Row i goes to part i mod k, so that each part keeps its share of a sharded batch.
    """
    if microbatches == 1:
        return rule

    def accumulated(params: Params, batch: Batch, key: Key | None) -> tuple[Mean, Mean, Stats]:
        parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, microbatches, *x.shape[1:]), 1, 0), batch)
        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(rule, params, first, key)
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

        def body(total, each):
            part, index = each
            folded = None if key is None else keys.fold(key, "microbatch", index)
            return jax.tree.map(jnp.add, total, rule(params, part, folded)), None

        return jax.lax.scan(body, zero, (parts, jnp.arange(microbatches)))[0]

    return accumulated
