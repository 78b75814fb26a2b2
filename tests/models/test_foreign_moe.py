"""Logits, gradients and greedy texts of `transformers`' decoders with experts; see golden/make_moe_decoders.py."""

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

FOLDER = Path(__file__).parents[1] / "golden" / "moe"
CASES = [
    "mixtral",
    "mixtral windowed tied",
    "qwen3_moe",
    "qwen3_moe some dense",
    "gpt_oss",
    "deepseek_v3",
    "deepseek_v3 plain",
]


def test_every_case_is_tested():
    assert {file.stem.replace("_", " ") for file in FOLDER.iterdir()} == {case.replace("_", " ") for case in CASES}


@pytest.mark.rotates(3)
@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.exhaustive if " " in c else ()) for c in CASES])
def test_logits_gradients_and_greedy_texts_are_those_of_transformers(case):
    arrays = dict(np.load(FOLDER / f"{case.replace(' ', '_')}.npz"))
    family, fields, *_ = configs.read(json.loads(str(arrays["config"])))
    model = construct(lookup(MODELS, family, "model.name"), fields)
    names = numbered(lookup(NAMES, family, "names"), model)
    shapes = {path: d.shape for path, d in model.declarations().items()}

    def ours(kind):
        found = {n.removeprefix(kind): a for n, a in arrays.items() if n.startswith(kind)}
        found |= {n: np.zeros_like(a) for n, a in buffers(arrays).items()} if kind == "gradient/" else {}
        return dict(from_hf(names, shapes, found.items()))

    def loss(params):
        logits = model.apply(params, {"tokens": arrays["tokens"]}).logits
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), arrays["targets"][..., None], axis=-1)
        return -chosen.mean(), logits

    params = tree.unflatten(ours("weight/"))
    (value, logits), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(logits, arrays["logits"], rtol=0, atol=1e-4 * np.abs(arrays["logits"]).max())
    np.testing.assert_allclose(value, arrays["loss"], rtol=1e-5)
    expected, largest = ours("gradient/"), max(np.abs(a).max() for n, a in arrays.items() if n.startswith("gradient/"))
    for path, found in tree.flatten(gradient).items():
        np.testing.assert_allclose(
            found, expected[path], rtol=0, atol=1e-4 * np.abs(expected[path]).max() + 1e-6 * largest, err_msg=path
        )
        if "/experts/" in path:
            assert not np.any(found[:, 1]), f"{path}: no token chose expert 1"

    text = np.concatenate([arrays["tokens"][:, :4], arrays["greedy"]], axis=1)
    continued = jax.jit(lambda p, t: model.apply(p, {"tokens": t}).logits)(params, text[:, :-1])[:, 3:]
    np.testing.assert_array_equal(continued.argmax(-1), arrays["greedy"])


def buffers(arrays):
    """Weights without a gradient: the bias that only chooses."""
    return {n.removeprefix("weight/"): a for n, a in arrays.items() if n.endswith("e_score_correction_bias")}
