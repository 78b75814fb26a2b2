"""Logits, gradients and greedy text of T5, BART and Marian of `transformers`, and what their files may hold beside."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core import tree
from llm_jax.core.table import UserError, lookup
from llm_jax.interop import configs
from llm_jax.interop.names import NAMES, from_hf, to_hf
from llm_jax.models import MODELS
from llm_jax.run.config import construct

GOLDEN = Path(__file__).parents[1] / "golden/seq2seq"
CASES = ["t5", "t5_v1_1", "bart", pytest.param("marian", marks=pytest.mark.exhaustive)]
ONE = [
    pytest.param(case, marks=() if case == "t5_v1_1" else pytest.mark.exhaustive)
    for case in ("t5_v1_1", "t5", "bart", "marian")
]


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
    return model, dict(from_hf(lookup(NAMES, family, "names"), shapes, tensors.items()))


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_are_those_of_transformers(case):
    arrays = load(case)
    model, weights = ours(json.loads(str(arrays["config"])), of(arrays, "weight/"))
    assert (model.encoder_layers, model.num_layers) == (2, 1)
    batch = {"tokens": arrays["tokens"], "source_tokens": arrays["source"], "source_segments": arrays["mask"]}

    def loss(params):
        logits = model.apply(params, batch).logits
        right = jnp.take_along_axis(jax.nn.log_softmax(logits), arrays["targets"][..., None], axis=-1)
        return -right.mean(), logits

    (value, logits), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(tree.unflatten(weights))
    np.testing.assert_allclose(logits, arrays["logits"], rtol=0, atol=1e-4 * np.abs(arrays["logits"]).max())
    np.testing.assert_allclose(value, arrays["loss"], rtol=1e-5)
    _, expected = ours(json.loads(str(arrays["config"])), of(arrays, "gradient/"))
    largest = max(np.abs(a).max() for a in expected.values())
    for path, found in tree.flatten(gradient).items():
        bound = 1e-4 * np.abs(expected[path]).max() + 1e-6 * largest
        np.testing.assert_allclose(found, expected[path], rtol=0, atol=bound, err_msg=path)


@pytest.mark.parametrize("case", ONE)
def test_the_likeliest_tokens_one_by_one_are_those_of_generate(case):
    arrays = load(case)
    config = json.loads(str(arrays["config"]))
    model, weights = ours(config, of(arrays, "weight/"))
    params, written = tree.unflatten(weights), []
    batch = {"tokens": np.full((1, 1), config["decoder_start_token_id"]), "source_tokens": arrays["source"][:1]}
    out, cache = model.prefill(params, batch, model.empty_cache(1, 1 + len(arrays["greedy"])))
    logits = out.logits
    step = jax.jit(lambda p, tokens, cache: (lambda out: (out[0].logits, out[1]))(model.extend(p, tokens, cache)))
    for _ in arrays["greedy"]:
        written.append(int(logits[0, -1].argmax()))
        logits, cache = step(params, np.full((1, 1), written[-1]), cache)
    assert written == arrays["greedy"].tolist()


@pytest.mark.parametrize(
    ("case", "table"), [("t5", "shared.weight"), ("bart", "model.shared.weight"), ("marian", "model.shared.weight")]
)
def test_files_may_repeat_the_table_and_hold_what_is_computed(case, table):
    arrays = load(case)
    config, whole = json.loads(str(arrays["config"])), of(arrays, "weight/")
    _, weights = ours(config, whole)
    base = table.removesuffix("shared.weight")
    more = {f"{base}{side}.embed_tokens.weight": whole[table] for side in ("encoder", "decoder")}
    more["lm_head.weight"] = whole[table]
    if case == "marian":
        more["model.encoder.embed_positions.weight"] = np.ones((13, 12))
    if case == "t5":
        more["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = np.ones((8, 3))
    _, read = ours(config, whole | more)
    assert read.keys() == weights.keys() and all(np.array_equal(read[p], weights[p]) for p in weights)
    with pytest.raises(UserError, match="ties"):
        ours(config, whole | more | {"lm_head.weight": whole[table] + 1})


def test_a_bart_without_its_head_is_read_by_its_own_names():
    arrays = load("bart")
    config, whole = json.loads(str(arrays["config"])), of(arrays, "weight/")
    bare = {n.removeprefix("model."): a for n, a in whole.items() if n != "final_logits_bias"}
    (model, weights), (_, headed) = ours(config, bare), ours(config, whole)
    assert not model.logits_bias and weights.keys() == headed.keys() - {"head/bias"}
    assert all(np.array_equal(weights[p], headed[p]) for p in weights)


def test_the_first_position_of_bart_is_row_2_and_the_rows_before_it_go_out_as_zeros():
    arrays = load("bart")
    theirs = of(arrays, "weight/")
    model, weights = ours(json.loads(str(arrays["config"])), theirs)
    name = "model.decoder.embed_positions.weight"
    assert model.max_positions == 13 and theirs[name].shape == (15, 12)
    np.testing.assert_array_equal(weights["decoder_embed/positions"], theirs[name][2:])
    shapes = {path: a.shape for path, a in weights.items()}
    out = dict(to_hf(lookup(NAMES, "bart", "names"), shapes, weights.items()))[name]
    np.testing.assert_array_equal(out, np.concatenate([np.zeros((2, 12)), weights["decoder_embed/positions"]]))


@pytest.mark.parametrize(
    ("case", "wrong"),
    [
        ("t5", {"feed_forward_proj": "gated-silu"}),
        ("t5_v1_1", {"is_decoder_of": 1}),
        ("bart", {"activation_function": "relu"}),
        ("bart", {"encoder_attention_heads": 2}),
        ("bart", {"normalize_before": True}),
        ("marian", {"decoder_vocab_size": 36}),
        ("marian", {"activation_function": "tanh"}),
        ("marian", {"share_encoder_decoder_embeddings": False}),
    ],
)
def test_what_our_model_does_not_do_is_refused(case, wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        configs.read(json.loads(str(load(case)["config"])) | wrong)


def test_a_v1_1_without_a_head_of_its_own_is_refused():
    arrays = load("t5_v1_1")
    config, whole = json.loads(str(arrays["config"])), of(arrays, "weight/")
    assert not configs.read(config).fields["tied"]
    with pytest.raises(UserError, match=r"missing: lm_head\.weight"):
        ours(config, {n: a for n, a in whole.items() if n != "lm_head.weight"})
