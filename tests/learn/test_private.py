"""DP-SGD: what one row can change, how much noise there is, and the sum beside jax-privacy's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core import tree
from llm_jax.core.table import UserError
from llm_jax.core.types import Mean
from llm_jax.learn.accumulate import accumulate
from llm_jax.learn.gradient import plain
from llm_jax.learn.private import clipped, noised, private
from llm_jax.objectives.causal import Causal
from llm_jax.optim.transform import global_norm, transformation
from tests.laws.bag import Bag

V, B, T = 40, 6, 8
MODEL = Bag(vocab_size=V, embed_dim=8)
RULE = plain(MODEL, Causal())
RUN = jax.jit(RULE)
RNG = np.random.default_rng(0)
BATCH = {
    "tokens": RNG.integers(0, V, (B, T)).astype(np.int32),
    "targets": RNG.integers(0, V, (B, T)).astype(np.int32),
    "weights": (RNG.integers(0, 3, (B, T)) / 2).astype(np.float32) * (np.arange(B) != 2)[:, None],
}
PARAMS = MODEL.init(jax.random.key(0))
NORM = 0.165  # some rows are cut by it, some are not


def near(found, wanted, atol=1e-6):
    for path, leaf in tree.flatten(wanted).items():
        np.testing.assert_allclose(tree.flatten(found)[path], leaf, atol=atol, err_msg=path)


def one(i):
    return {name: x[i : i + 1] for name, x in BATCH.items()}


def lengths():
    return np.array([float(global_norm(RUN(PARAMS, one(i), None)[0].value)) for i in range(B)])


def test_the_sum_is_that_of_rows_cut_one_by_one_in_whatever_parts():
    own = lengths()
    assert (own > NORM).sum() >= 2 and ((own < NORM) & (own > 0)).any() and own[2] == 0
    total = jax.tree.map(jnp.zeros_like, PARAMS)
    for i in range(B):
        scale = min(1.0, NORM / max(own[i], 1e-30))
        total = jax.tree.map(lambda t, g, s=scale: t + s * g, total, RUN(PARAMS, one(i), None)[0].value)
    for parts in (1, 3):
        summed, loss, stats = jax.jit(accumulate(clipped(RULE, NORM), parts))(PARAMS, BATCH, None)
        near(summed.total, total)
        assert summed.weight == B - 1  # a row without weight is none
        np.testing.assert_allclose(loss.value, RULE(PARAMS, BATCH, None)[1].value, rtol=1e-5)
        np.testing.assert_allclose(stats["clipped"].value, (own > NORM).sum() / (B - 1))


def test_a_row_more_or_less_changes_the_sum_by_no_more_than_the_norm():
    without = BATCH | {"weights": BATCH["weights"] * (np.arange(B) != 4)[:, None]}
    cut = jax.jit(clipped(RULE, NORM))
    sums = [cut(PARAMS, batch, None)[0].total for batch in (BATCH, without)]
    np.testing.assert_allclose(global_norm(jax.tree.map(jnp.subtract, *sums)), min(NORM, lengths()[4]), rtol=1e-3)


def test_noise_is_normal_new_for_each_key_and_leaf_and_divided_by_the_expected_rows():
    shapes = {"a": jnp.zeros((100, 100)), "b": jnp.zeros((100, 100))}

    def nothing(params, batch, key):
        return Mean(shapes, jnp.float32(0)), Mean(0.0, 0.0), {}

    rule = noised(nothing, 3.0, 12.0)
    first, again, other = (rule({}, {}, jax.random.key(k))[0] for k in (0, 0, 1))
    assert first.weight == 12 and np.array_equal(first.total["a"], again.total["a"])
    for x, y in ((first.total["a"], first.total["b"]), (first.total["a"], other.total["a"])):
        assert abs(np.corrcoef(np.ravel(x), np.ravel(y))[0, 1]) < 0.05
    x = np.asarray(first.total["a"])
    assert abs(x.std() - 3) < 0.1 and abs(x.mean()) < 0.1 and abs((x**4).mean() / 81 - 3) < 0.3


def test_the_learner_steps_along_clipped_gradients_and_noise_of_the_clipped_size():
    make = partial(private, MODEL, Causal(), transformation("sgd", 1.0), clip_norm=NORM, expected=4.0)
    quiet, loud = make(noise=1e-6), make(noise=2.0)
    state = quiet.init(jax.random.key(0))
    after, noisy = (jax.jit(learner.update)(state, BATCH)[0].params for learner in (quiet, loud))
    summed = jax.jit(clipped(RULE, NORM))(state.params, BATCH, None)[0].total
    near(after, jax.tree.map(lambda p, g: p - g / 4, state.params, summed), 1e-5)
    noise = np.concatenate([np.ravel(x) for x in jax.tree.leaves(jax.tree.map(jnp.subtract, noisy, after))])
    assert abs(noise.std() / (2 * NORM / 4) - 1) < 0.1


def test_it_wants_batches_that_the_accounting_is_of():
    with pytest.raises(UserError, match=r"data\.poisson"):
        private(MODEL, Causal(), transformation("sgd", 1.0))


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_the_sum_is_that_of_jax_privacy():
    from jax_privacy.clipping import clipped_grad

    def loss(params, batch):
        return Causal()(MODEL, params, batch, None)[0].value

    theirs = clipped_grad(loss, l2_clip_norm=NORM, batch_argnums=1)(PARAMS, BATCH)
    near(clipped(RULE, NORM)(PARAMS, BATCH, None)[0].total, theirs)
