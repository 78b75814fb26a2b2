"""Rates by group of paths: each leaf's update is that without, times the factor of the one pattern that matches it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core import tree
from llm_jax.core.table import UserError
from llm_jax.optim.transform import transformation

PARAMS = {"generator": {"head": jnp.ones((3, 2))}, "discriminator": {"head": jnp.ones((3, 2)), "score": jnp.ones(2)}}


def updates(params=PARAMS, **options):
    tx = transformation("adamw", 0.1, weight_decay=0.2, **options)
    gradients = jax.tree.map(lambda x: 0.5 * x, params)
    return tree.flatten(jax.jit(tx.update)(gradients, tx.init(params), params)[0])


def test_each_leaf_moves_by_the_factor_of_its_group():
    plain, found = updates(), updates(groups={"^discriminator/": 0.25, "^generator/": 2.0})
    for path, factor in {"generator/head": 2.0, "discriminator/head": 0.25, "discriminator/score": 0.25}.items():
        np.testing.assert_allclose(found[path], factor * plain[path], rtol=1e-6)
    alone = updates(groups={"score$": 0.0})
    assert not alone["discriminator/score"].any()
    np.testing.assert_array_equal(alone["generator/head"], plain["generator/head"])


def test_a_rate_by_group_and_one_by_layer_multiply_and_frozen_leaves_stay():
    plain = updates()
    found = updates(groups={"^discriminator/": 0.5}, layer_decay=0.5, freeze=["^generator/"])
    np.testing.assert_allclose(found["discriminator/score"], 0.5 * plain["discriminator/score"], rtol=1e-6)
    assert not found["generator/head"].any()


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"^critic/": 0.5}, r"optimizer\.groups: '\^critic/' matches none of"),
        ({"head": 0.5, "^generator": 2.0}, r"'head' and '\^generator' both match 'generator/head'"),
        ({"(": 0.5}, r"optimizer\.groups=.* must be regular expressions with a number in \[0, inf\) each"),
        ({"head": -1.0}, r"optimizer\.groups=.* must be regular expressions with a number"),
        ({"head": "fast"}, r"optimizer\.groups=.* must be regular expressions with a number"),
        (["head"], r"optimizer\.groups=.* must be regular expressions with a number"),
    ],
)
def test_groups_that_match_nothing_or_twice_or_are_none_are_refused(groups, said):
    with pytest.raises(UserError, match=said):
        updates(groups=groups)
