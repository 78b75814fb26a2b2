"""The order: permutations and mixtures that are computed anywhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_jax.core.table import UserError
from llm_jax.data.order import interleave, keys, permute, shares, uniform


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 3000), st.integers(0, 2**63), st.integers(0, 10**6))
def test_every_epoch_is_a_permutation(size, seed, epoch):
    n = np.arange(size)
    assert sorted(permute(n, size, keys(seed, 0, np.full(size, epoch)))) == list(range(size))


def test_one_element_alone_is_the_same_as_among_all():
    n = np.arange(1000)
    key = keys(1, 2, np.full(1000, 3))
    whole = permute(n, 1000, key)
    assert all(permute(n[i : i + 1], 1000, key[i : i + 1])[0] == whole[i] for i in range(0, 1000, 37))


def test_seeds_epochs_and_purposes_give_different_orders():
    n = np.arange(500)
    orders = {
        permute(n, 500, keys(seed, name, np.full(500, epoch))).tobytes()
        for seed in range(4)
        for name in range(3)
        for epoch in range(5)
    }
    assert len(orders) == 60


def test_places_are_spread_evenly():
    size, count = 10, 20_000
    first = permute(np.zeros(count, np.int64), size, keys(0, 0, np.arange(count)))
    chi_square = ((np.bincount(first, minlength=size) - count / size) ** 2 / (count / size)).sum()
    assert chi_square < 27.9  # 99.9 % of chi-square with 9 degrees of freedom


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=9), st.integers(0, 10**12))
def test_a_mixture_keeps_its_proportions_at_every_prefix(parts, start):
    component, index = interleave(np.arange(2000), parts)
    counts = np.cumsum(component[:, None] == np.arange(len(parts)), axis=0)
    ideal = np.arange(1, 2001)[:, None] * np.array(parts) / sum(parts)
    depth = max(1, (len(parts) - 1).bit_length())
    assert np.abs(counts - ideal).max() <= depth
    for c in range(len(parts)):
        assert np.array_equal(index[component == c], np.arange((component == c).sum()))
    far, place = interleave(start + np.arange(50), parts)
    for c in range(len(parts)):
        found = place[far == c]
        assert np.array_equal(found, np.arange(len(found)) + (found[0] if len(found) else 0))
        assert not len(found) or abs(found[0] - start * parts[c] / sum(parts)) <= depth + 50


def test_two_components_are_off_by_at_most_a_half():
    component, _ = interleave(np.arange(10_000), shares([0.8, 0.2]))
    error = np.cumsum(component == 1) - 0.2 * np.arange(1, 10_001)
    assert np.abs(error).max() <= 0.5 + 1e-9 and (component == 1).sum() == 2000


def test_weights_become_exact_integers():
    assert shares([0.8, 0.2]) == [4, 1] and shares([1, 1.0]) == [1, 1] and shares([0.1, 0.2, 0.7]) == [1, 2, 7]
    for weights in ([np.pi, np.e, 1e-3], [1 / 3, 2 / 3]):
        parts = np.array(shares([float(w) for w in weights]))
        assert np.allclose(parts / parts.sum(), np.array(weights) / sum(weights), rtol=1e-6)


@pytest.mark.parametrize("weight", [0, -1.0, float("nan"), float("inf"), True, "1"])
def test_a_weight_must_be_a_positive_number(weight):
    with pytest.raises(UserError, match="positive finite"):
        shares([1.0, weight])


def test_numbers_drawn_for_an_example_are_uniform_and_its_own():
    n = np.arange(2000)
    drawn = uniform(3, 1, n, 50)
    assert drawn.shape == (2000, 50) and drawn.min() >= 0 and drawn.max() < 1
    assert abs(drawn.mean() - 1 / 2) < 0.005 and abs(drawn.var() - 1 / 12) < 0.002
    assert abs(np.corrcoef(drawn[:, :8].T) - np.eye(8)).max() < 0.1
    np.testing.assert_array_equal(uniform(3, 1, n[70:71], 50)[0], drawn[70])
    np.testing.assert_array_equal(uniform(3, 1, n, 20), drawn[:, :20])
    assert not np.isin(uniform(4, 1, n, 50), drawn).any() and not np.isin(uniform(3, 2, n, 50), drawn).any()
