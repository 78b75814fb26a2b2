"""Means are sums until they are printed; trees are paths; keys have names."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_jax.core import keys, tree
from llm_jax.core.types import Mean

quick = settings(deadline=None, max_examples=50)
dyadic = st.integers(-1000, 1000).map(lambda n: n / 8)  # exact in float32, and so are their sums
means = st.builds(lambda t, w: Mean(np.float32(t), np.float32(w)), dyadic, st.integers(0, 100).map(float))


@quick
@given(means, means, means)
def test_means_add_exactly_in_any_order(a, b, c):
    assert (a + b) + c == a + (b + c) and a + b == b + a
    assert a + Mean(np.float32(0), np.float32(0)) == a


@quick
@given(st.lists(st.tuples(dyadic, st.integers(1, 20)), min_size=1, max_size=20), st.integers(1, 19))
def test_a_mean_of_parts_is_the_mean_of_the_whole(pairs, cut):
    values, weights = (np.array(column, np.float64) for column in zip(*pairs, strict=True))
    one, two = (
        Mean(np.float32((values * weights)[s].sum()), np.float32(weights[s].sum()))
        for s in (slice(cut), slice(cut, None))
    )
    np.testing.assert_allclose((one + two).value, np.average(values, weights=weights), rtol=1e-5, atol=1e-5)


def test_the_mean_of_nothing_is_zero_and_so_is_its_gradient():
    assert Mean(jnp.float32(0), jnp.float32(0)).value == 0
    gradient = jax.grad(lambda w: Mean(3.0 * w, w).value)(jnp.float32(0))
    assert np.isfinite(gradient)


def test_a_mean_of_a_tree_divides_every_leaf():
    mean = Mean({"a": jnp.ones(2), "b": jnp.float32(4)}, jnp.float32(2))
    np.testing.assert_array_equal((mean + mean).value["a"], [0.5, 0.5])
    assert (mean + mean).value["b"] == 2


def test_paths_lead_back_to_the_tree():
    leaves = {"a": {"b": np.ones(2), "c": {"d": np.zeros((2, 3))}}, "e": np.ones(())}
    assert list(tree.flatten(leaves)) == ["a/b", "a/c/d", "e"]
    assert jax.tree.structure(tree.unflatten(tree.flatten(leaves))) == jax.tree.structure(leaves)
    assert tree.count(leaves) == 9 and tree.num_bytes(leaves) == 72
    assert tree.mask(leaves, ["^a/.*d$"]) == {"a": {"b": False, "c": {"d": True}}, "e": False}


def test_keys_differ_by_name_and_step_and_by_nothing_else():
    root = jax.random.key(0)
    made = [keys.fold(root, name, step) for name in ("dropout", "params") for step in (0, 1, 2)]
    assert len({tuple(jax.random.key_data(k).tolist()) for k in made}) == 6
    again = jax.jit(lambda step: keys.fold(root, "params", step))(2)
    assert (jax.random.key_data(again) == jax.random.key_data(made[-1])).all()
