"""The worked examples of the sources, with their right answers; see SEEDS.md."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax.core.table import lookup
from llm_jax.kernels.attention import plain
from llm_jax.learn.gradient import descent
from llm_jax.models import MODELS
from llm_jax.nn.initial import zeros
from llm_jax.nn.mlp import Mlp
from llm_jax.objectives.causal import Causal


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_equal_words_share_attention_by_thirds():
    """Over "apple banana orange", with equal queries, keys and values, each word weighs 1/3: the output is 3, 3, 3."""
    same = jnp.full((1, 3, 1, 3), 3.0)
    np.testing.assert_allclose(plain(same, same, same, causal=False)[0, :, 0], np.full((3, 3), 3.0), rtol=1e-6)
    one_hot = jnp.eye(3)[None, :, None]  # values that tell the words apart show the weights
    np.testing.assert_allclose(plain(same, same, one_hot, causal=False)[0, :, 0], np.full((3, 3), 1 / 3), rtol=1e-6)


def test_multi_head_attention_over_hello_world_is_the_published_formula():
    """softmax(q · kᵀ / √K) · v in each head: the scale stands inside of the softmax."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, 4, 5)).astype(np.float32) for _ in range(3))  # hello, world; 4 heads of 5
    heads = [softmax(q[:, h] @ k[:, h].T / np.sqrt(5)) @ v[:, h] for h in range(4)]
    found = plain(*(jnp.asarray(a[None]) for a in (q, k, v)), causal=False)[0]
    np.testing.assert_allclose(found, np.stack(heads, axis=1), rtol=0, atol=1e-5)


def test_feed_forward_over_hello_world_reads_each_word_alone():
    """down · relu(up · x + bias) + bias, word by word."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1, 2, 6)).astype(np.float32)
    layer = Mlp(8, zeros, zeros, jax.nn.relu)
    p = {n: rng.normal(size=s).astype(np.float32) for n, s in
         {"up": (6, 8), "up_bias": (8,), "down": (8, 6), "down_bias": (6,)}.items()}  # fmt: skip
    found = layer.apply({"params": p}, x)
    words = [np.maximum(word @ p["up"] + p["up_bias"], 0) @ p["down"] + p["down_bias"] for word in x[0]]
    np.testing.assert_allclose(found[0], words, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_recurrent_language_model_prints_a_train_loss_per_epoch_and_a_test_loss(kind, capsys):
    """On a text of period five every epoch's loss falls, and the test loss is far below that of a uniform guess."""
    text = np.tile(np.arange(5, dtype=np.int32), 40)
    rows = text[:192].reshape(8, 24)
    model = lookup(MODELS, kind, "model.name")(vocab_size=5, num_layers=1, embed_dim=16)
    learner = descent(model, Causal(), optax.adam(0.02), microbatches=1)
    state, update, losses = learner.init(jax.random.key(0)), jax.jit(learner.update), []
    for epoch in range(5):
        total = 0.0
        for batch in (rows[:4], rows[4:]) * 2:
            state, stats = update(state, {"tokens": batch})
            total += float(stats["loss"].value) / 4
        losses.append(total)
        print(f"epoch {epoch + 1}: train loss {total:.3f}")
    test, _ = Causal()(model, state.params, {"tokens": text[None, 3:63]}, None)
    print(f"test loss {float(test.value):.3f}")
    assert losses == sorted(losses, reverse=True)
    assert float(test.value) < 0.5 * np.log(5)
    assert capsys.readouterr().out.count("loss") == 6
