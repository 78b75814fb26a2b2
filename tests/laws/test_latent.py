"""What holds for models of texts given a vector: their bound, its estimates, and the texts that they draw."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from llm_jax.core.table import UserError
from llm_jax.evals.importance import row_sums as importance
from llm_jax.evals.perplexity import row_sums
from llm_jax.models.decoder.llama import Llama
from llm_jax.models.latent.vae import Vae, divergence
from llm_jax.objectives.elbo import Elbo
from llm_jax.run.parts.sampling import Sample
from llm_jax.run.texts.continued import between, continuations
from llm_jax.text import tokenizers

rng = np.random.default_rng(4)
B, T, V = 3, 10, 40
BATCH = {
    "tokens": rng.integers(0, V, (B, T)).astype(np.int32),
    "targets": rng.integers(0, V, (B, T)).astype(np.int32),
    "weights": np.repeat([[1.0, 1, 1, 1, 1, 1, 1, 0, 0, 0]], B, axis=0).astype(np.float32),
}
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


@pytest.fixture
def vae(tiny, draw):
    model = tiny("vae", latent_dim=1)
    return model, draw(model)


@pytest.mark.parametrize(("mean", "log_variance"), [(0.0, 0.0), (1.5, -2.0), (-0.3, 1.2)])
def test_the_divergence_is_that_of_the_two_normal_distributions(mean, log_variance):
    q, p = stats.norm(mean, np.exp(log_variance / 2)), stats.norm()
    expected, _ = integrate.quad(lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), -30, 30)
    close(divergence(jnp.float32(mean), jnp.float32(log_variance)), expected)


@pytest.mark.exhaustive
def test_the_likelihood_lies_above_the_bound_and_many_draws_reach_it(vae):
    """Of one dimension the integral over z is a sum over a fine grid."""
    model, params = vae
    targets, weights = jnp.asarray(BATCH["targets"]), BATCH["weights"]

    @jax.jit
    def log_p(z):
        scores = model.decode(params, BATCH, jnp.full((B, 1), z)).logits
        chosen = jnp.take_along_axis(jax.nn.log_softmax(scores), targets[..., None], axis=-1)[..., 0]
        return (chosen * weights).sum(1)

    grid = np.linspace(-6, 6, 1201)
    joint = np.stack([np.asarray(log_p(z), np.float64) + stats.norm.logpdf(z) for z in grid])
    exact = -np.log(np.trapezoid(np.exp(joint), grid, axis=0))
    run = jax.jit(partial(importance, model), static_argnums=3)
    many = run(params, BATCH, jax.random.key(1), 20_000)
    np.testing.assert_allclose(many[:, 0], exact, rtol=2e-3)
    bounds = np.stack([run(params, BATCH, jax.random.key(i), 1)[:, 0] for i in range(100)])
    few = np.stack([run(params, BATCH, jax.random.key(i), 16)[:, 0] for i in range(100)])
    assert (bounds.mean(0) > few.mean(0)).all() and (few.mean(0) > exact - 4 * few.std(0) / 10).all()


def test_one_draw_is_the_bound_in_the_mean(vae):
    model, params = vae
    run = jax.jit(partial(importance, model), static_argnums=3)
    drawn = np.stack([run(params, BATCH, jax.random.key(i), 1)[:, 0] for i in range(400)])

    @jax.jit
    def analytic(key):
        out = model.apply(params, BATCH, key=key)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(out.logits), BATCH["targets"][..., None], axis=-1)[..., 0]
        return out.extras["nats"] - (chosen * BATCH["weights"]).sum(1)

    exact = np.stack([analytic(jax.random.key(i)) for i in range(400)])
    error = np.sqrt((drawn.var(0) + exact.var(0)) / 400)
    assert (np.abs(drawn.mean(0) - exact.mean(0)) < 4 * error).all()


def test_the_evaluation_charges_the_divergence(vae):
    model, params = vae
    loss, seen = jax.jit(lambda p: Elbo()(model, p, BATCH, None))(params)
    sums = jax.jit(partial(row_sums, model))(params, BATCH)
    close(sums[:, 0].sum(), loss.total)
    close(seen["loss"].total, seen["reconstruction"].total + seen["kl"].total)
    assert seen["kl"].total > 0


@pytest.mark.exhaustive
def test_the_weight_of_the_divergence_rises_with_the_examples(vae):
    model, params = vae
    of = jax.jit(lambda e: Elbo(warmup=100, beta=2.0)(model, params, BATCH | {"example": e}, None))
    at = {n: of(np.full(B, n, np.int32)) for n in (0, 50, 100, 10_000)}
    kl, plain = at[0][1]["kl"].total, at[0][1]["reconstruction"].total
    for n, beta in ((0, 0.0), (50, 1.0), (100, 2.0), (10_000, 2.0)):
        close(at[n][0].total, plain + beta * kl)
        close(at[n][1]["loss"].total, plain + kl)
    close(Elbo(warmup=100)(model, params, BATCH, None)[0].total, plain + kl)  # without numbers it is the bound


@pytest.mark.exhaustive
def test_free_bits_cost_nothing_and_have_no_gradient(vae):
    model, params = vae
    generous = Elbo(free_bits=1e6)
    gradient = jax.grad(lambda p: generous(model, p, BATCH, None)[0].total)(params)
    plain = jax.grad(lambda p: Elbo(beta=0.0)(model, p, BATCH, None)[0].total)(params)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(plain), strict=True):
        close(a, b)


def test_examples_are_numbered_as_the_loader_counts_them():
    reshape = Elbo().transform(tokenizers.build("bytes"), T, 0)
    numbered = reshape({"tokens": BATCH["tokens"]}, np.array([7, 8, 2**40]))
    assert numbered["example"].tolist() == [7, 8, 2**31 - 1] and numbered["example"].dtype == np.int32


def test_what_has_no_weight_is_not_read(vae):
    model, params = vae
    other = np.where(BATCH["weights"] > 0, BATCH["targets"], (BATCH["targets"] + 7) % V)
    shorter = {name: x[:, :7] for name, x in BATCH.items()}
    for one, two in zip(
        model.posterior(params, BATCH), model.posterior(params, BATCH | {"targets": other}), strict=True
    ):
        np.testing.assert_array_equal(one, two)
    for one, two in zip(model.posterior(params, BATCH), model.posterior(params, shorter), strict=True):
        close(one, two)


def test_every_parameter_matters_and_every_dimension_of_the_vector_moves_every_token(tiny, draw):
    model = tiny("vae")
    params = draw(model)
    gradient = jax.jit(jax.grad(lambda p: Elbo()(model, p, BATCH, None)[0].total))(params)
    assert all(np.abs(g).max() > 1e-7 for g in jax.tree.leaves(gradient))
    moved = jax.jacobian(lambda z: model.decode(params, BATCH, z).hidden.sum(-1)[0])(jnp.zeros((B, 3)))
    assert (np.abs(moved[:, 0]) > 0).all() and not np.abs(moved[:, 1:]).any()


def test_words_are_dropped_in_training_alone(tiny, draw):
    model, plain = tiny("vae", word_dropout=0.9), tiny("vae")
    params = draw(model)
    close(model.apply(params, BATCH).hidden, plain.apply(params, BATCH).hidden)
    key = jax.random.key(2)
    assert not np.allclose(model.apply(params, BATCH, key=key).hidden, plain.apply(params, BATCH, key=key).hidden)
    for one, two in zip(model.posterior(params, BATCH, key=key), plain.posterior(params, BATCH), strict=True):
        close(one, two)  # the encoder reads every word


def test_a_text_is_drawn_by_its_key_and_written_as_it_is_read(tiny, draw):
    model = tiny("vae")
    params = draw(model)
    start, write = np.array([1, 2, 3], np.int32), jax.jit(model.write, static_argnums=4)
    draw_texts = jax.jit(model.sample, static_argnums=3)
    one, again, other = (np.asarray(draw_texts(params, jax.random.key(k), start, 8)) for k in (0, 0, 1))
    assert one.shape == (3, 8) and one.dtype == np.int32 and (one >= 0).all() and (one < V).all()
    assert (one == again).all() and (one != other).any()
    z = rng.normal(size=(3, 3)).astype(np.float32)
    greedy = np.asarray(write(params, z, None, start, 8))
    read = np.concatenate([start[:, None], greedy[:, :-1]], axis=1)
    np.testing.assert_array_equal(model.decode(params, {"tokens": read}, z).logits.argmax(-1), greedy)


def test_a_model_without_vectors_is_refused():
    model = Llama(vocab_size=V, num_layers=1, embed_dim=16, num_heads=2, mlp_dim=24)
    with pytest.raises(UserError, match="vae"):
        Elbo()(model, model.init(jax.random.key(0)), BATCH, None)


def test_a_vae_without_a_vector_is_refused():
    with pytest.raises(UserError, match=r"model\.latent_dim=0 must be above zero"):
        Vae(vocab_size=V, latent_dim=0)


def test_texts_lie_on_the_line_between_two_others(tiny, draw):
    words = tokenizers.build("bytes")
    model = tiny("vae", vocab_size=words.vocab_size)
    params = draw(model)
    texts = between(model, params, words, "one text", "another", steps=3, tokens=6)
    turned = between(model, params, words, "another", "one text", steps=3, tokens=6)
    assert texts == turned[::-1] and len(set(texts)) > 1
    assert texts[0] == between(model, params, words, "one text", "one text", steps=2, tokens=6)[1]
    with pytest.raises(UserError, match="vae"):
        between(Llama(vocab_size=V), params, words, "a", "b", steps=2, tokens=2)


def test_whole_texts_are_drawn_for_empty_prompts(tiny, draw):
    words = tokenizers.build("bytes")
    model = tiny("vae", vocab_size=words.vocab_size + 2)
    params = draw(model)
    texts = continuations(model, params, words, Sample(prompts=["", ""], tokens=9), seed=0)
    assert len(texts) == 2 and texts == continuations(model, params, words, Sample(prompts=["", ""], tokens=9), seed=0)
    with pytest.raises(UserError, match="empty prompt"):
        continuations(model, params, words, Sample(prompts=["a"]), seed=0)
