"""What holds for two players: each learns by its own loss alone, and the fakes are texts with a gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.table import UserError
from llm_jax.evals import adversarial as evaluation
from llm_jax.evals.perplexity import Estimate
from llm_jax.models.decoder.llama import Llama
from llm_jax.models.latent.gan import straight_through
from llm_jax.objectives.adversarial import Adversarial
from llm_jax.objectives.causal import Causal
from llm_jax.run.judge.kinds import evaluator, told

rng = np.random.default_rng(6)
B, T, V = 4, 10, 40
BATCH = {
    "tokens": rng.integers(0, V, (B, T)).astype(np.int32),
    "targets": rng.integers(0, V, (B, T)).astype(np.int32),
    "weights": (np.arange(T) < np.array([[10], [7], [3], [0]])).astype(np.float32),
}
PLAYERS = "generator", "discriminator"
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


@pytest.fixture
def gan(tiny, draw):
    model = tiny("gan")
    return model, draw(model)


def test_each_player_learns_by_its_own_loss_alone(gan):
    model, params = gan

    def costs(p):
        _, stats = Adversarial()(model, p, BATCH, jax.random.key(0))
        return {player: stats[player].total for player in PLAYERS}

    slopes = jax.jit(jax.jacrev(costs))(params)
    for player in PLAYERS:
        for part in PLAYERS:
            largest = [float(np.abs(g).max()) for g in jax.tree.leaves(slopes[player][part])]
            assert all(x > 1e-7 for x in largest) if part == player else not any(largest), (player, part)


def test_drawn_tokens_are_one_hots_with_the_gradient_of_the_softmax():
    scores, direction = (jnp.asarray(rng.normal(size=(3, 5, V)), jnp.float32) for _ in range(2))
    hard = np.asarray(straight_through(scores, 0.7))
    np.testing.assert_array_equal(hard, np.eye(V)[np.asarray(scores.argmax(-1))])
    found = jax.grad(lambda s: (straight_through(s, 0.7) * direction).sum())(scores)
    close(found, jax.grad(lambda s: (jax.nn.softmax(s / 0.7) * direction).sum())(scores))


@pytest.mark.exhaustive
def test_tokens_are_drawn_of_the_distribution_of_the_logits(tiny, draw):
    model = tiny("gan", latent_dim=1)
    params = draw(model)
    params["generator"]["source"]["kernel"] *= 0  # every text has the same logits
    drawn = jax.jit(model.generate, static_argnums=2)(params, jax.random.split(jax.random.key(1), 4000), 2)
    wanted = jax.nn.softmax(model.apply(params, {"tokens": BATCH["tokens"][:1, :2]}).logits)[0]
    assert np.abs(np.asarray(drawn).mean(0) - wanted).max() < 5 * 0.5 / np.sqrt(4000)


def test_ids_and_one_hots_are_judged_alike_and_what_is_not_real_is_not_read(gan):
    model, params = gan
    ids, real = BATCH["targets"], BATCH["weights"] > 0
    judge = jax.jit(model.discriminate)
    close(judge(params, np.eye(V, dtype=np.float32)[ids], real), judge(params, ids, real))
    np.testing.assert_array_equal(judge(params, np.where(real, ids, (ids + 7) % V), real), judge(params, ids, real))
    close(judge(params, ids[1:2, :7]), judge(params, ids, real)[1:2])
    assert judge(params, ids, real)[0] != judge(params, (ids + 7) % V, real)[0]


def test_every_token_is_judged(gan):
    model, params = gan
    hot = np.eye(V, dtype=np.float32)[BATCH["targets"]]
    slope = np.asarray(jax.jit(jax.grad(lambda x: model.discriminate(params, x).sum()))(hot))
    assert (np.abs(slope).max(-1) > 1e-7).all()


def test_every_drawn_token_depends_on_every_place_of_its_row(gan):
    """By gradient, of the embeddings of the places; the discriminator has blocks of the same kind."""
    model, params = gan
    direction = rng.normal(size=16).astype(np.float32)

    def projected(places):
        source = params["generator"]["source"] | {"positions": places}
        own = params | {"generator": params["generator"] | {"source": source}}
        return model.apply(own, {"tokens": BATCH["tokens"][:1]}).hidden[0] @ direction

    slope = np.asarray(jax.jit(jax.jacrev(projected))(params["generator"]["source"]["positions"]))
    assert (np.abs(slope[:, :T]).max(-1) > 0).all() and not slope[:, T:].any()


def test_texts_follow_their_keys_and_not_the_batch(gan):
    model, params = gan
    draw_texts, start = jax.jit(model.sample, static_argnums=3), np.zeros(3, np.int32)
    one, again, other = (np.asarray(draw_texts(params, jax.random.key(k), start, 8)) for k in (0, 0, 1))
    assert one.shape == (3, 8) and one.dtype == np.int32 and (one >= 0).all() and (one < V).all()
    assert (one == again).all() and (one != other).any() and (one[0] != one[1]).any()
    row_keys = jax.random.split(jax.random.key(2), 4)
    generate = jax.jit(model.generate, static_argnums=2)
    np.testing.assert_array_equal(generate(params, row_keys, 6)[1:2], generate(params, row_keys[1:2], 6))


def test_the_losses_are_those_of_the_scores(gan):
    """Goodfellow et al. 2014, §3, of the rows' own fakes; a row counts as its tokens do."""
    model, params = gan
    rows = Adversarial(smoothing=0.2).rows(model, params, BATCH, None)
    _, stats = Adversarial()(model, params, BATCH, None)
    plain = Adversarial().rows(model, params, BATCH, None)
    sure = 1 / (1 + np.exp(-np.asarray(model.discriminate(params, BATCH["targets"], BATCH["weights"] > 0), float)))
    passed = np.exp(-np.asarray(plain.generator, float))
    close(plain.discriminator, -np.log(sure) - np.log(1 - passed))
    close(rows.discriminator, -0.8 * np.log(sure) - 0.2 * np.log(1 - sure) - np.log(1 - passed))
    np.testing.assert_array_equal(plain.fooled, passed > 0.5)
    close(plain.weight, [10, 7, 3, 0])
    close(stats["loss"].value, ((plain.generator + plain.discriminator) * plain.weight).sum() / 20)


def test_the_held_out_losses_are_means_over_rows_of_text_and_the_same_every_time(gan):
    model, params = gan
    sums = jax.jit(partial(evaluation.row_sums, model, params))
    whole = evaluation.losses(sums, [BATCH])
    halves = evaluation.losses(sums, [{k: v[rows] for k, v in BATCH.items()} for rows in (slice(0, 2), slice(2, 4))])
    rows = Adversarial().rows(model, params, BATCH, None)
    assert list(whole) == ["loss", "generator", "discriminator", "fooled"]
    for name, found in whole.items():
        assert found.count == 3
        close(found.value, halves[name].value)
        if name != "loss":
            own = np.asarray(getattr(rows, name)[:3], float)
            close([found.value, found.error], [own.mean(), own.std(ddof=1) / np.sqrt(3)])
    close(whole["loss"].value, whole["generator"].value + whole["discriminator"].value)


def test_two_players_are_told_by_their_losses_and_a_likelihood_in_its_own_units(gan):
    model, params = gan
    judge = evaluator(model, Adversarial(), "gradient")
    sums = [np.asarray(judge.sums(params, BATCH))]
    assert set(judge.merge(lambda batch: batch, sums)) == set(judge.over)
    found = {"loss": Estimate(2.0, 5, 0.25), "fooled": Estimate(0.5, 5, 0.125)}
    assert told(judge, found) == "loss 2.0000 ± 0.2500 nats/row  fooled 0.5000 ± 0.1250"
    likely = evaluator(Llama(vocab_size=V), Causal(), "gradient")
    assert told(likely, {"loss": found["loss"]}) == "loss 2.0000 ± 0.2500 nats/token"


def test_dropout_is_of_the_discriminator_and_of_training_alone(tiny, draw):
    model = tiny("gan", dropout=0.5)
    params, plain = draw(model), tiny("gan")
    score = partial(model.discriminate, params, BATCH["targets"])
    close(score(), plain.discriminate(params, BATCH["targets"]))
    assert not np.allclose(score(key=jax.random.key(0)), score())
    np.testing.assert_array_equal(score(key=jax.random.key(0)), score(key=jax.random.key(0)))


def test_a_model_of_one_player_and_a_text_too_long_are_refused(gan):
    model, params = gan
    with pytest.raises(UserError, match=r'objective\.name="adversarial" needs .*"gan".*\'llama\''):
        Adversarial().fits(Llama(vocab_size=V))
    with pytest.raises(UserError, match=r"model\.max_positions=24 is below the 25 tokens"):
        model.sample(params, jax.random.key(0), np.zeros(2, np.int32), 25)
