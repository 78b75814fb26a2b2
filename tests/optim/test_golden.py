"""Optimizers against torch's own numbers (tests/golden/make_optimizers.py) and Lion's paper in numpy."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax.optim.transform import transformation

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "optimizers.npz")
CASES = {
    "sgd": ("sgd", 0.1, {}),
    "momentum": ("sgd", 0.1, dict(momentum=0.9)),
    "nesterov": ("sgd", 0.1, dict(momentum=0.9, nesterov=True)),
    "adagrad": ("adagrad", 0.1, dict(initial_accumulator=0.1, eps=1e-10)),
    "adam": ("adam", 0.01, dict(b1=0.9, b2=0.95)),
    "adamw": ("adamw", 0.01, dict(b1=0.9, b2=0.95, weight_decay=0.1)),
    "adafactor": ("adafactor", 0.01, dict(min_dim_to_factor=1, weight_decay=0.1)),
    "muon": ("muon", 0.02, dict(consistent_rms=None, weight_decay=0.1)),
    "muon_rms": ("muon", 0.02, dict(consistent_rms=0.2, weight_decay=0.1)),
}


def golden(prefix, names=("wide", "tall", "bias")):
    return {name: GOLDEN[f"{prefix}/{name}"] for name in names if f"{prefix}/{name}" in GOLDEN}


def walk(tx, params, gradients):
    """Return the parameters after each step, stacked."""

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.jit(lambda p, g: jax.lax.scan(step, (p, tx.init(p)), g)[1])(params, gradients)


@pytest.mark.parametrize("case", CASES)
def test_ten_steps_agree_with_torch(case):
    name, rate, options = CASES[case]
    expected = golden(case)
    tx = transformation(name, rate, decay_exclude=(), **options)
    got = walk(tx, golden("start", expected), golden("gradients", expected))
    for leaf, path in expected.items():
        np.testing.assert_allclose(got[leaf], path, rtol=1e-5, atol=2e-6, err_msg=leaf)


def test_lion_agrees_with_the_papers_algorithm():
    start, gradients = golden("start"), golden("gradients")
    got = walk(transformation("lion", 0.01, b1=0.9, b2=0.99, weight_decay=0.1, decay_exclude=()), start, gradients)
    for leaf, theta in start.items():
        momentum = np.zeros_like(theta)
        for t, g in enumerate(gradients[leaf]):
            update = np.sign(0.9 * momentum + (1 - 0.9) * g)
            momentum = 0.99 * momentum + (1 - 0.99) * g
            theta = theta - 0.01 * (update + 0.1 * theta)
            np.testing.assert_allclose(got[leaf][t], theta, rtol=1e-5, atol=1e-6)


def test_adafactor_agrees_with_optax_where_nothing_is_stacked():
    names = ("wide", "tall", "bias")
    ours = transformation("adafactor", 0.01, min_dim_to_factor=5)
    theirs = optax.adafactor(0.01, min_dim_size_to_factor=5)
    got, expected = (walk(tx, golden("start", names), golden("gradients", names)) for tx in (ours, theirs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, expected)


def test_clipping_agrees_with_optax():
    gradients = jax.tree.map(lambda g: g[0], golden("gradients"))
    for norm in (0.1, 1e3):
        ours = transformation("sgd", 1.0, clip_norm=norm)
        theirs = optax.chain(optax.clip_by_global_norm(norm), optax.sgd(1.0))
        got, expected = (tx.update(gradients, tx.init(gradients))[0] for tx in (ours, theirs))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, expected)


def test_the_newton_schulz_of_wide_matrices_is_the_plain_iteration():
    from llm_jax.optim import muon

    x = jax.random.normal(jax.random.key(0), (8, 40))
    x = x * jnp.logspace(0, -4, 8)[:, None] / jnp.linalg.norm(x)
    np.testing.assert_allclose(muon._wide(x, 5), muon._square(x, 5), atol=3e-5)
