"""Logits and gradients of BERT and RoBERTa of `transformers`, and what their files may leave out or hold beside."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core import tree
from llm_jax.core.table import UserError, lookup
from llm_jax.interop import configs
from llm_jax.interop.names import NAMES, from_hf, numbered, slots, to_hf
from llm_jax.models import MODELS
from llm_jax.run.config import construct

GOLDEN = Path(__file__).parents[1] / "golden/encoders"
CASES = ["bert", "modernbert", "roberta"]


def load(case):
    with np.load(GOLDEN / f"{case}.npz") as golden:
        return dict(golden)


def of(arrays, kind):
    return {n.removeprefix(kind): a for n, a in arrays.items() if n.startswith(kind)}


def ours(config, tensors):
    """(model, its parameters by path) of a config.json and tensors by foreign names."""
    family, fields, *_ = configs.read(config, tensors)
    model = construct(lookup(MODELS, family, "model.name"), fields)
    shapes = {path: d.shape for path, d in model.declarations().items()}
    return model, dict(from_hf(numbered(lookup(NAMES, family, "names"), model), shapes, tensors.items()))


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_are_those_of_transformers(case):
    arrays = load(case)
    config, real = json.loads(str(arrays["config"])), arrays["mask"] > 0
    model, weights = ours(config, of(arrays, "weight/"))
    batch = {"tokens": arrays["tokens"], "segments": arrays["mask"], "token_types": arrays["types"]}

    def nll(scores, right):
        return -jnp.take_along_axis(jax.nn.log_softmax(scores), right[..., None], axis=-1)[..., 0]

    def loss(params):
        out = model.apply(params, batch)
        order = nll(out.extras["order"], np.array([0, 1])).mean() if "order" in arrays else 0.0
        return (nll(out.logits, arrays["targets"]) * real).sum() / real.sum() + order, out

    compiled = jax.jit(jax.value_and_grad(lambda p: (loss(p)[0], (loss(p)[1].logits, loss(p)[1].extras)), has_aux=True))
    (value, (logits, extras)), gradient = compiled(tree.unflatten(weights))
    bound = 1e-4 * np.abs(arrays["logits"]).max()
    np.testing.assert_allclose(logits[real], arrays["logits"][real], rtol=0, atol=bound)
    np.testing.assert_allclose(value, arrays["loss"], rtol=1e-5)
    if "order" in arrays:
        np.testing.assert_allclose(extras["order"], arrays["order"], rtol=0, atol=bound)
    _, expected = ours(config, of(arrays, "gradient/"))
    largest = max(np.abs(a).max() for a in expected.values())
    for path, found in tree.flatten(gradient).items():
        np.testing.assert_allclose(
            found, expected[path], rtol=0, atol=1e-4 * np.abs(expected[path]).max() + 1e-6 * largest, err_msg=path
        )


@pytest.mark.parametrize("case", ["bert", "roberta"])
def test_files_with_and_without_prefix_head_pooler_and_buffers_are_read(case):
    arrays = load(case)
    config, whole = json.loads(str(arrays["config"])), of(arrays, "weight/")
    model, weights = ours(config, whole)
    assert (model.head, model.pooler) == (True, case == "bert")
    prefix, table = f"{case}.", f"{case}.embeddings.word_embeddings.weight"
    dense = {f"{prefix}pooler.dense.weight": np.ones((12, 12)), f"{prefix}pooler.dense.bias": np.ones(12)}
    bare = {n: a for n, a in (dense | whole).items() if n.startswith(prefix)}
    buffer = {f"{prefix}embeddings.position_ids": np.arange(9)[None]}
    for tensors, pooler in ((bare | buffer, True), ({n: a for n, a in bare.items() if "pooler" not in n}, False)):
        for stripped in (tensors, {n.removeprefix(prefix): a for n, a in tensors.items()}):
            found, read = ours(config, stripped)
            assert (found.head, found.pooler) == (False, pooler)
            assert all(np.array_equal(read[p], weights[p]) for p in read if not p.startswith("pooler"))
    old = {n.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): a for n, a in whole.items()}
    decoder = "cls.predictions.decoder.weight" if case == "bert" else "lm_head.decoder.weight"
    for tensors in (old, whole | {decoder: whole[table]}):
        read = ours(config, tensors)[1]
        assert read.keys() == weights.keys() and all(np.array_equal(read[p], weights[p]) for p in weights)
    with pytest.raises(UserError, match="ties"):
        ours(config, whole | {decoder: whole[table] + 1})


def test_the_first_position_of_roberta_is_row_2_and_the_rows_before_it_go_out_as_zeros():
    arrays = load("roberta")
    config, table = json.loads(str(arrays["config"])), "roberta.embeddings.position_embeddings.weight"
    model, weights = ours(config, of(arrays, "weight/"))
    assert model.max_positions == 9 and configs.read(config).context == 9
    np.testing.assert_array_equal(weights["embed/positions"], arrays[f"weight/{table}"][2:])
    shapes = {path: a.shape for path, a in weights.items()}
    out = dict(to_hf(lookup(NAMES, "roberta", "names"), shapes, weights.items()))[table]
    np.testing.assert_array_equal(out, np.concatenate([np.zeros((2, 12)), weights["embed/positions"]]))
    fields = {name: getattr(model, name) for name in model.__dataclass_fields__}
    written = configs.write("roberta", fields, shapes, context=9, dtype="float32")
    assert (written["max_position_embeddings"], written["pad_token_id"]) == (11, 1)
    with pytest.raises(UserError, match="pad_token_id=0"):
        configs.read(config | {"pad_token_id": 0})
    with pytest.raises(UserError, match="no position"):
        configs.read(config | {"max_position_embeddings": 2})


def test_what_our_model_does_not_do_is_refused():
    config = json.loads(str(load("bert")["config"]))
    wrong = {"is_decoder": True, "position_embedding_type": "relative_key", "hidden_act": "relu"}
    for key, value in wrong.items():
        with pytest.raises(UserError, match=key):
            configs.read(config | {key: value})
    model = construct(lookup(MODELS, "roberta", "names"), {"vocab_size": 9, "max_positions": 4, "pooler": True})
    shapes = {path: d.shape for path, d in model.declarations().items()}
    with pytest.raises(UserError, match=r"model\.pooler=False"):
        configs.write("roberta", {"max_positions": 4}, shapes, context=4, dtype="float32")
    bare = construct(lookup(MODELS, "bert", "names"), {"vocab_size": 9, "max_positions": 4, "num_layers": 1,
                     "embed_dim": 4, "num_heads": 1, "head": False})  # fmt: skip
    out = bare.apply(bare.init(jax.random.key(0)), {"tokens": np.ones((1, 3), np.int32)})
    assert out.extras.keys() == {"pooled"} and "cls" not in str(slots(lookup(NAMES, "bert", "names"), {
        path: d.shape for path, d in bare.declarations().items()}).keys())  # fmt: skip
    with pytest.raises(UserError, match="no head"):
        _ = out.logits
