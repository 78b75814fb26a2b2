"""The filters against plain NumPy, on random logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from llm_jax.core.table import UserError
from llm_jax.decode import filters
from llm_jax.decode.filters import Sampling

V = 37
top_k, top_p, truncate = jax.jit(filters.top_k), jax.jit(filters.top_p), jax.jit(filters.truncate)
rows = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).normal(size=(2, V)).astype(np.float32) * 3
)
quick = settings(max_examples=40, deadline=None)


def softmax(x):
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kept(filtered):
    return np.isfinite(np.asarray(filtered))


@quick
@given(rows, st.integers(1, V + 3), st.integers(1, V + 3))
def test_top_k_keeps_the_k_greatest_of_each_row(logits, first, second):
    ours = kept(top_k(jnp.asarray(logits), jnp.array([first, second])))
    for row, k in enumerate((first, second)):
        assert set(np.flatnonzero(ours[row])) == set(np.argsort(-logits[row])[:k])


@quick
@given(rows, st.floats(0.01, 0.99))
def test_top_p_keeps_the_fewest_tokens_that_reach_p(logits, p):
    ours = kept(top_p(jnp.asarray(logits), jnp.full(2, p, jnp.float32)))
    for row in range(2):
        probabilities = softmax(logits[row])
        order = np.argsort(-probabilities)
        reached = np.cumsum(probabilities[order])
        if np.abs(reached - p).min() > 1e-5:  # on the border, rounding decides
            assert set(np.flatnonzero(ours[row])) == set(order[: 1 + (reached < p).sum()])


@quick
@given(rows, st.floats(0.001, 1.0))
def test_min_p_keeps_what_is_at_least_p_times_as_probable_as_the_best(logits, p):
    ours = kept(filters.min_p(jnp.asarray(logits), jnp.full(2, p, jnp.float32)))
    ratio = np.exp(logits - logits.max(-1, keepdims=True))
    clear = np.abs(ratio - p) > 1e-5
    assert (ours == (ratio >= p))[clear].all()
    assert ours[np.arange(2), logits.argmax(-1)].all()


@quick
@given(rows, st.floats(0.5, 2.0), st.integers(0, 2**32 - 1))
def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_of_seen_tokens(logits, penalty, seed):
    seen = np.random.default_rng(seed).random((2, V)) < 0.3
    expected = logits.copy()
    for row, token in np.argwhere(seen):
        value = logits[row, token]
        expected[row, token] = value * np.float32(penalty) if value < 0 else value / np.float32(penalty)
    ours = filters.repetition(jnp.asarray(logits), jnp.asarray(seen), jnp.full(2, penalty, jnp.float32))
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_neutral_settings_only_shift_the_logits():
    logits = np.random.default_rng(0).normal(size=(3, V)).astype(np.float32)
    unchanged = truncate(jnp.asarray(logits), Sampling().rows(3))
    np.testing.assert_array_equal(unchanged, logits - logits.max(axis=-1, keepdims=True))


def test_each_row_has_settings_of_its_own():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, V)).astype(np.float32))
    one, two = Sampling(temperature=0.5, top_k=3), Sampling(top_p=0.5, min_p=0.1)
    mixed = filters.Knobs(*(jnp.concatenate([a, b]) for a, b in zip(one.rows(1), two.rows(1), strict=True)))
    apart = [truncate(logits[i : i + 1], s.rows(1)) for i, s in enumerate((one, two))]
    np.testing.assert_array_equal(truncate(logits, mixed), jnp.concatenate(apart))


def test_filters_apply_one_after_the_other_to_what_the_last_one_left():
    logits = jnp.log(jnp.array([[0.4, 0.3, 0.2, 0.1]]))  # top-k leaves 0.57, 0.43: of these, 0.5 needs only the first
    assert kept(truncate(logits, Sampling(top_k=2, top_p=0.5).rows(1))).tolist() == [[True, False, False, False]]


def test_tokens_that_tie_at_the_cutoff_are_all_kept():
    logits = jnp.array([[1.0, 2.0, 1.0, 0.0]])
    assert kept(top_k(logits, jnp.array([2]))).tolist() == [[True, True, True, False]]


def test_zeros_of_both_signs_tie():
    assert kept(top_k(jnp.array([[0.0, -0.0, -1.0]]), jnp.array([1]))).tolist() == [[True, True, False]]


def test_draws_over_several_blocks_of_the_vocabulary_follow_the_softmax():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=2 * filters.BLOCK + 30).astype(np.float32)
    logits[rng.random(logits.size) < 0.3] = -np.inf
    many = 200_000
    uniform = jax.random.uniform(jax.random.key(0), (many, 2))
    tokens = jax.jit(jax.vmap(lambda u: filters.draw(jnp.asarray(logits)[None], u[None])[0]))(uniform)
    seen, expected = np.bincount(tokens, minlength=logits.size), softmax(logits)
    assert not seen[expected == 0].any()
    assert stats.chisquare(seen[expected > 0], many * expected[expected > 0]).pvalue > 1e-3


def test_the_ends_of_the_interval_draw_a_possible_token():
    logits = jnp.array([[-jnp.inf, 0.0, -jnp.inf, 1.0, -jnp.inf]])
    nearly_one = np.nextafter(np.float32(1), np.float32(0))
    assert filters.draw(logits, jnp.zeros((1, 2))).tolist() == [1]
    assert filters.draw(logits, jnp.full((1, 2), nearly_one)).tolist() == [3]


@pytest.mark.parametrize(
    "field, value",
    [
        ("temperature", -0.1), ("temperature", float("nan")), ("temperature", float("inf")), ("temperature", "hot"),
        ("top_k", 0), ("top_k", -3), ("top_k", 2.5), ("top_k", True), ("top_p", 0.0), ("top_p", 1.5),
        ("top_p", float("nan")), ("top_p", None), ("min_p", -0.1), ("min_p", 1.1), ("repetition_penalty", 0.0),
        ("repetition_penalty", float("inf")),
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_refused_by_name_and_value(field, value):
    with pytest.raises(UserError, match=rf"sample\.{field}={value!r}"):
        Sampling(**{field: value})
