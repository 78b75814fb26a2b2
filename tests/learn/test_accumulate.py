"""Accumulation's memory: what the compiled gradient needs beside its arguments and results."""

import functools

import jax
import numpy as np
import pytest

from llm_jax.core.table import lookup
from llm_jax.learn.accumulate import accumulate
from llm_jax.learn.gradient import plain
from llm_jax.models import MODELS
from llm_jax.objectives.causal import Causal

SIZES = {"vocab_size": 32, "num_layers": 2, "embed_dim": 16, "num_heads": 2, "mlp_dim": 32}
ROWS, T = 64, 32
MORE = {"gpt2": {"max_positions": T}}


@functools.cache
def memory(family, microbatches):
    """(bytes of temporaries of the compiled gradient, bytes of the parameters)."""
    model = lookup(MODELS, family, "model.name")(**SIZES, **MORE.get(family, {}))
    params = jax.eval_shape(model.init, jax.random.key(0))
    batch = {name: jax.ShapeDtypeStruct((ROWS, T), np.int32) for name in ("tokens", "targets")}
    rule = jax.jit(accumulate(plain(model, Causal()), microbatches), static_argnums=2)
    compiled = rule.lower(params, batch, None).compile()
    return compiled.memory_analysis().temp_size_in_bytes, sum(4 * x.size for x in jax.tree.leaves(params))


ALL = [pytest.param(f, k, marks=pytest.mark.exhaustive) for f in ("llama", "gpt2") for k in (2, 8, 16)]


@pytest.mark.parametrize(("family", "parts"), [("llama", 4), *ALL])
def test_a_batch_in_k_parts_takes_a_kth_of_the_memory_and_two_sets_of_gradients(family, parts):
    """The sum so far and that of one part are there together, whatever the number of parts."""
    (whole, _), (found, gradients) = memory(family, 1), memory(family, parts)
    assert whole > 100 * gradients  # so that activations are what is measured
    assert 0.9 * whole / parts < found < 1.1 * whole / parts + 2 * gradients
