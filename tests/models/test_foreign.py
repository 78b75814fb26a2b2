"""Logits and gradients of Hugging Face `transformers`, through the maps of names; see golden/make_*decoders.py."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core import tree
from llm_jax.core.table import lookup
from llm_jax.interop import configs
from llm_jax.interop.names import NAMES, from_hf, numbered
from llm_jax.models import MODELS
from llm_jax.run.config import construct

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDERS = ("decoders", "dense", "gemma")
CASES = [
    "gemma", "gemma2", "gemma2_without_caps", "gemma3", "gemma3_stretched", "gpt2", "gpt2_narrow_mlp",
    "gpt_neox", "gpt_neox_tied", "llama", "llama_grouped", "llama_tied", "llama_stretched", "llama_stretched_evenly",
    "mistral", "olmo2", "olmo2_tied", "phi3", "qwen2", "qwen2_tied", "qwen3",
]  # fmt: skip
FILES = {file.stem: file for folder in FOLDERS for file in (GOLDEN / folder).iterdir()}


def test_every_case_is_tested():
    assert set(FILES) == set(CASES)


@pytest.mark.rotates(2)
@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_are_those_of_transformers(case):
    with np.load(FILES[case]) as golden:
        arrays = dict(golden)
    config = json.loads(str(arrays["config"]))
    family, fields, *_ = configs.read(config)
    model = construct(lookup(MODELS, family, "model.name"), fields)
    names = numbered(lookup(NAMES, family, "names"), model)
    shapes = {path: d.shape for path, d in model.declarations().items()}

    def ours(kind):
        found = {n.removeprefix(kind): a for n, a in arrays.items() if n.startswith(kind)}
        return dict(from_hf(names, shapes, found.items()))

    def loss(params):
        logits = model.apply(params, {"tokens": arrays["tokens"]}).logits
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), arrays["targets"][..., None], axis=-1)
        return -chosen.mean(), logits

    (value, logits), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(tree.unflatten(ours("weight/")))
    np.testing.assert_allclose(logits, arrays["logits"], rtol=0, atol=1e-4 * np.abs(arrays["logits"]).max())
    np.testing.assert_allclose(value, arrays["loss"], rtol=1e-5)
    expected, largest = ours("gradient/"), max(np.abs(a).max() for n, a in arrays.items() if n.startswith("gradient/"))
    for path, found in tree.flatten(gradient).items():
        np.testing.assert_allclose(
            found, expected[path], rtol=0, atol=1e-4 * np.abs(expected[path]).max() + 1e-6 * largest, err_msg=path
        )
