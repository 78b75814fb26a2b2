"""Logits, gradients and greedy texts of `transformers`' Mamba-2; see golden/make_mamba2.py."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core import tree
from llm_jax.core.table import lookup
from llm_jax.decode.filters import Sampling
from llm_jax.decode.sample import generate
from llm_jax.interop import configs
from llm_jax.interop.names import NAMES, from_hf
from llm_jax.models import MODELS
from llm_jax.run.config import construct

with np.load(Path(__file__).parents[1] / "golden" / "mamba2.npz") as arrays:
    GOLDEN = dict(arrays)
CASES = sorted({name.partition("/")[0] for name in GOLDEN})


@pytest.mark.parametrize("case", CASES)
def test_logits_gradients_and_greedy_texts_are_those_of_transformers(case):
    arrays = {name.removeprefix(case + "/"): a for name, a in GOLDEN.items() if name.startswith(case + "/")}
    described = configs.read(json.loads(str(arrays["config"])))
    model = construct(lookup(MODELS, described.family, "model.name"), described.fields)
    shapes = {path: d.shape for path, d in model.declarations().items()}

    def ours(kind):
        found = {n.removeprefix(kind): a for n, a in arrays.items() if n.startswith(kind)}
        return dict(from_hf(lookup(NAMES, described.family, "names"), shapes, found.items()))

    def loss(params):
        logits = model.apply(params, {"tokens": arrays["tokens"]}).logits
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), arrays["targets"][..., None], axis=-1)
        return -chosen.mean(), logits

    params = tree.unflatten(ours("weight/"))
    (value, logits), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(logits, arrays["logits"], rtol=0, atol=1e-5 * np.abs(arrays["logits"]).max())
    np.testing.assert_allclose(value, arrays["loss"], rtol=1e-5)
    expected = ours("gradient/")
    for path, found in tree.flatten(gradient).items():
        largest = np.abs(expected[path]).max()
        np.testing.assert_allclose(found, expected[path], rtol=0, atol=1e-4 * largest, err_msg=path)
    made = generate(model, params, arrays["tokens"][:, :4].tolist(), max_new_tokens=8, settings=Sampling(0.0), seed=0)
    np.testing.assert_array_equal(made, arrays["greedy"])
