"""Preferences: the published formulas spelled out on what `decode.score` says, and what holds of any two answers."""

import math

import jax
import numpy as np
import pytest

from llm_jax.core.table import UserError
from llm_jax.decode.score import score
from llm_jax.evals.tuned.preferred import ranking, rows
from llm_jax.models.decoder.llama import Llama
from llm_jax.objectives.preference.alone import Orpo, Simpo
from llm_jax.objectives.preference.referred import Dpo, Ipo

MODEL = Llama(vocab_size=30, num_layers=1, embed_dim=16, num_heads=2, mlp_dim=16)
PARAMS = jax.tree.map(lambda x: 3 * x, MODEL.init(jax.random.key(0)))
OTHER = jax.tree.map(lambda x: 3 * x, MODEL.init(jax.random.key(1)))
RANDOM = np.random.default_rng(0)
PROMPTS = [RANDOM.integers(0, 30, n).tolist() for n in (4, 2, 3)]
CHOSEN = [RANDOM.integers(0, 30, n).tolist() for n in (5, 1, 3)]
REJECTED = [RANDOM.integers(0, 30, n).tolist() for n in (2, 4, 3)]
T = 9


def side(answers, prefix=""):
    """The fields of answers to PROMPTS."""
    fields = {f"{prefix}{name}": np.zeros((len(answers), T), np.int32) for name in ("tokens", "targets", "segments")}
    fields[f"{prefix}weights"] = np.zeros((len(answers), T), np.float32)
    for row, (prompt, answer) in enumerate(zip(PROMPTS, answers, strict=True)):
        text, n = [*prompt, *answer], len(prompt) + len(answer) - 1
        fields[f"{prefix}tokens"][row, :n], fields[f"{prefix}targets"][row, :n] = text[:-1], text[1:]
        fields[f"{prefix}segments"][row, :n] = 1
        fields[f"{prefix}weights"][row, len(prompt) - 1 : n] = 1
    return fields


def pairs(chosen=CHOSEN, rejected=REJECTED):
    return {**side(chosen), **side(rejected, "rejected_")}


def log_probs(params):
    """log p of both answers, float64 [3] each, by another way."""
    return [score(MODEL, params, PROMPTS, some).log_prob.astype(np.float64) for some in (CHOSEN, REJECTED)]


def told(objective, batch, params=PARAMS):
    loss, stats = jax.jit(lambda p, b: objective(MODEL, p, b, None))(params, batch)
    return float(loss.value), {name: float(stat.value) for name, stat in stats.items()}


def log_sigmoid(x):
    return -np.log1p(np.exp(-x))


@pytest.fixture(scope="module")
def known():
    """log p of both answers by the model and by a reference, and their lengths."""
    return log_probs(PARAMS), log_probs(OTHER), [np.array([len(a) for a in some]) for some in (CHOSEN, REJECTED)]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_dpo_and_ipo_are_the_formulas(known, smoothing):
    (c, r), (c0, r0), (n, m) = known
    batch = pairs() | {"reference_chosen": np.float32(c0), "reference_rejected": np.float32(r0)}
    h = (c - c0) - (r - r0)
    loss, stats = told(Dpo(beta=0.3, label_smoothing=smoothing), batch)
    wanted = -((1 - smoothing) * log_sigmoid(0.3 * h) + smoothing * log_sigmoid(-0.3 * h))
    np.testing.assert_allclose([loss, stats["loss"]], wanted.mean(), rtol=1e-5)
    np.testing.assert_allclose([stats["chosen"], stats["rejected"]], [c.mean(), r.mean()], rtol=1e-5)
    np.testing.assert_allclose([stats["margin"], stats["accuracy"]], [0.3 * h.mean(), (h > 0).mean()], rtol=1e-5)
    each = ((c - c0) / n - (r - r0) / m - 1 / (2 * 0.4)) ** 2
    np.testing.assert_allclose(told(Ipo(beta=0.4), batch)[0], each.mean(), rtol=1e-5)


def test_orpo_and_simpo_are_the_formulas(known):
    (c, r), _, (n, m) = known
    p, q = np.exp(c / n), np.exp(r / m)
    odds = np.log(p / (1 - p)) - np.log(q / (1 - q))
    np.testing.assert_allclose(told(Orpo(beta=0.3), pairs())[0], (-c / n - 0.3 * log_sigmoid(odds)).mean(), rtol=1e-5)
    wanted = -log_sigmoid(2.5 * c / n - 2.5 * r / m - 0.7).mean()
    np.testing.assert_allclose(told(Simpo(beta=2.5, gamma=0.7), pairs())[0], wanted, rtol=1e-5)


def test_a_model_that_is_its_reference_prefers_nothing():
    c, r = log_probs(PARAMS)
    loss, stats = told(Dpo(), pairs() | {"reference_chosen": np.float32(c), "reference_rejected": np.float32(r)})
    assert loss == pytest.approx(math.log(2), abs=1e-5) and abs(stats["margin"]) < 1e-5


@pytest.mark.parametrize("objective", [Dpo(), Ipo(), Orpo(), Simpo()], ids=lambda o: type(o).__name__)
def test_answers_that_change_places_change_the_sign_of_the_margin(objective):
    one, other = (told(objective, batch)[1] for batch in (pairs(), pairs(REJECTED, CHOSEN)))
    assert one["margin"] == pytest.approx(-other["margin"], rel=1e-5) and one["margin"] != 0
    assert one["accuracy"] == pytest.approx(1 - other["accuracy"])


def test_the_ranking_of_held_out_pairs_needs_no_reference(known):
    (c, r), _, (n, m) = known
    batch = {name: np.concatenate([values, np.zeros_like(values[:1])]) for name, values in pairs().items()}  # a padding
    found = ranking(jax.jit(lambda b: rows(MODEL, PARAMS, b)), [batch])
    assert found["loss"].value == pytest.approx(-c.sum() / n.sum(), rel=1e-5)
    assert found["accuracy"].value == (c > r).mean() and found["accuracy"].count == 3
    assert found["accuracy_per_token"].value == (c / n > r / m).mean()


def test_held_out_pairs_are_ranked_by_what_was_gained_where_there_is_a_reference(known):
    (c, r), (c0, r0), _ = known
    batch = pairs() | {"reference_chosen": np.float32(c0), "reference_rejected": np.float32(r0)}
    found = ranking(jax.jit(lambda b: rows(MODEL, PARAMS, b)), [batch])
    ahead = (c - c0) - (r - r0)
    assert found["accuracy_of_gains"].value == (ahead > 0).mean() and 0 < (ahead > 0).sum() < 3
    assert found["margin"].value == pytest.approx(ahead.mean(), rel=1e-4)
    assert "margin" not in ranking(jax.jit(lambda b: rows(MODEL, PARAMS, b)), [pairs()])


def test_rows_without_a_second_answer_are_refused():
    with pytest.raises(UserError, match="no rejected answers"):
        told(Simpo(), side(CHOSEN))
