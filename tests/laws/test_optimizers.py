"""Laws over every optimizer and every schedule of the tables."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from llm_jax.core import tree
from llm_jax.optim import OPTIMIZERS, SCHEDULES
from llm_jax.optim.options import accepted
from llm_jax.optim.transform import schedule, state_shardings, transformation

RATES = {"sgd": 0.5, "adagrad": 0.5, "muon": 0.4}  # the rest moves each element by about its rate a step
SHAPES = {
    "embed": {"table": (16, 8)},
    "blocks": {
        "attention": {"q": {"kernel": (2, 8, 2, 4), "bias": (2, 2, 4)}, "out": {"kernel": (2, 2, 4, 8)}},
        "mlp": {"up": {"kernel": (2, 8, 32)}},
        "norm": {"scale": (2, 8)},
    },
}
FEW = {"blocks": {"q": {"kernel": (2, 4, 2, 3)}, "norm": {"scale": (2, 4)}}}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


def random(seed=0, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: np.float32(rng.normal(size=s)), shapes, is_leaf=lambda x: isinstance(x, tuple))


def small(name, rate=0.01, **options):
    """Return the optimizer, with Adafactor factoring even these small matrices."""
    factors = {"min_dim_to_factor": 2} if "min_dim_to_factor" in accepted(name) else {}
    return transformation(name, rate, **factors, **options)


def walk(tx, params, gradients):
    """Return parameters and state after one step for each entry of the gradients' leading axis."""

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.jit(lambda p, g: jax.lax.scan(step, (p, tx.init(p)), g)[0])(params, gradients)


@functools.cache
def clipped(name):
    """Return an optimizer and its compiled update, shared by the tests below."""
    tx = small(name, clip_norm=1.0)
    return tx, jax.jit(tx.init), jax.jit(tx.update)


def close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **(dict(rtol=1e-5, atol=1e-6) | tolerance)), a, b)


@every_optimizer
def test_it_descends_parabolas_round_and_long(name):
    start, target, n = random(0), random(1), 200
    tx = small(name, schedule("linear", RATES.get(name, 0.1), n))

    def loss(params, curvature):
        return (
            sum(jax.tree.leaves(jax.tree.map(lambda p, t, c: jnp.sum(c * (p - t) ** 2), params, target, curvature))) / 2
        )

    def step(carry, _):
        params, state, curvature = carry
        value, gradient = jax.value_and_grad(loss)(params, curvature)
        updates, state = tx.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state, curvature), value

    descend = jax.jit(lambda curvature: jax.lax.scan(step, (start, tx.init(start), curvature), None, n)[1])
    for condition, remaining in ((1, 0.01), (100, 0.1)):
        losses = descend(
            jax.tree.map(
                lambda x, c=condition: np.float32(np.logspace(0, -np.log10(c), x.size)).reshape(x.shape), start
            )
        )
        assert losses[-1] < remaining * losses[0], condition


@every_optimizer
def test_its_state_is_a_tree_of_arrays_shaped_like_the_parameters(name):
    params = random()
    state = tree.flatten(jax.jit(small(name).init)(params))
    for path, leaf in state.items():
        assert isinstance(leaf, jax.Array), path
        owner = [p for p in tree.flatten(params) if path.endswith(p)]
        if owner and leaf.ndim:
            shape = tree.flatten(params)[owner[0]].shape
            assert leaf.ndim == len(shape) and all(n in (1, m) for n, m in zip(leaf.shape, shape, strict=True)), path
            assert leaf.shape == shape or name == "adafactor", path


@every_optimizer
def test_zero_gradients_without_decay_leave_the_parameters(name):
    (_, init, update), params = clipped(name), random()
    updates, _ = update(jax.tree.map(np.zeros_like, params), init(params), params)
    assert all(not np.any(u) for u in jax.tree.leaves(updates))


@every_optimizer
def test_a_compiled_step_is_the_eager_one(name):
    (tx, init, update), params, g = clipped(name), random(0, FEW), random(1, FEW)
    state = init(params)
    close(update(g, state, params), tx.update(g, state, params), rtol=1e-4)


@every_optimizer
def test_its_state_survives_flattening(name):
    (_, init, update), params, g = clipped(name), random(), random(1)
    _, state = update(g, init(params), params)
    leaves, structure = jax.tree.flatten(state)
    copy = structure.unflatten([np.asarray(leaf) for leaf in leaves])
    close(update(g, copy, params), update(g, state, params), rtol=0, atol=0)


@every_optimizer
def test_clipping_makes_a_step_independent_of_the_size_of_huge_gradients(name):
    (_, init, update), params, g = clipped(name), random(), random(1)
    state = init(params)
    close(update(jax.tree.map(lambda x: 1e6 * x, g), state, params), update(g, state, params), rtol=1e-3, atol=1e-5)


@every_optimizer
def test_stacked_layers_walk_as_separate_ones(name):
    tx, params, gradients = (
        small(name),
        random(0, FEW),
        jax.tree.map(lambda *g: np.stack(g), random(1, FEW), random(2, FEW)),
    )
    together, _ = walk(tx, params, gradients)
    apart = [{"blocks": jax.tree.map(lambda x, i=i: x[i : i + 1], params["blocks"])} for i in (0, 1)]
    pushes = [{"blocks": jax.tree.map(lambda x, i=i: x[:, i : i + 1], gradients["blocks"])} for i in (0, 1)]
    separate, _ = walk(tx, apart, pushes)
    close(jax.tree.map(lambda a, b: np.concatenate([a, b]), *separate), together)


@every_optimizer
def test_decay_acts_on_matrices_and_spares_vectors_even_stacked(name):
    if name == "adam":
        pytest.skip("does not decay, by definition")
    params = random()
    zeros = jax.tree.map(lambda p: np.zeros((1, *p.shape), np.float32), params)
    after, _ = walk(small(name, 0.1, weight_decay=0.5), params, zeros)
    for path, leaf in tree.flatten(after).items():
        factor = 1.0 if path.endswith(("scale", "bias")) else 0.95
        np.testing.assert_allclose(leaf, factor * tree.flatten(params)[path], rtol=1e-6, err_msg=path)


@every_optimizer
def test_frozen_leaves_stay_and_have_no_state(name):
    tx, params = small(name, freeze=["embed", "norm"]), random()
    after, state = walk(tx, params, jax.tree.map(lambda g: g[None], random(1)))
    for path, leaf in tree.flatten(after).items():
        still = np.array_equal(leaf, tree.flatten(params)[path])
        assert still == ("embed" in path or "norm" in path), path
    assert not any("embed" in path or "norm" in path for path in tree.flatten(state))


@every_optimizer
def test_its_state_shards_like_the_parameters_on_an_explicit_mesh(name):
    mesh = jax.sharding.AbstractMesh((2, 2), ("fsdp", "tensor"), axis_types=(AxisType.Explicit,) * 2)
    specs = {8: "fsdp", 32: "tensor"}
    with jax.sharding.use_abstract_mesh(mesh):
        params = jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(
                s, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*[specs.get(n) for n in s]))
            ),
            SHAPES,
            is_leaf=lambda x: isinstance(x, tuple),
        )
        shardings = jax.tree.map(lambda p: p.sharding, params)
        tx = small(name, clip_norm=1.0)
        state = jax.eval_shape(tx.init, params)
        updates, new = jax.eval_shape(tx.update, params, state, params)
        expected = state_shardings(tx, params, shardings, NamedSharding(mesh, PartitionSpec()))
    for got in (state, new):
        jax.tree.map(_same, got, expected)
    jax.tree.map(_same, updates, shardings)


def _same(x, sharding):
    specs = [x.sharding.spec if x.sharding else (), sharding.spec]
    a, b = ((*spec, *[None] * (len(x.shape) - len(spec))) for spec in specs)
    assert a == b


def make(name, **options):
    return schedule(name, 0.3, 1000, warmup_steps=100, **options)


@every_schedule
def test_its_rate_rises_from_above_zero_to_the_peak_at_the_end_of_the_warmup(name):
    rates = np.asarray(make(name)(np.arange(101)))
    assert 0 < rates[0] < 0.01
    assert np.all(np.diff(rates) > 0)
    np.testing.assert_allclose(rates[100], 0.3, rtol=1e-6)


@every_schedule
def test_its_rate_is_never_negative_nor_above_the_peak(name):
    rates = np.asarray(make(name)(np.arange(3000)))
    assert np.all(np.isfinite(rates)) and np.all(rates >= 0) and np.all(rates <= 0.3 * (1 + 1e-6))


@every_schedule
def test_its_end_is_reached_and_kept(name):
    if "end_fraction" not in accepted(name, SCHEDULES):
        pytest.skip("has no end")
    rate = make(name, end_fraction=0.2)
    assert rate(999) > 0.06
    np.testing.assert_allclose(rate(np.array([1000, 1001, 5000])), 0.06, rtol=1e-5)


@every_schedule
def test_a_vector_of_steps_gives_what_each_traced_step_gives(name):
    t = np.arange(0, 1200, 50)
    one = jax.jit(make(name))
    close(make(name)(t), np.stack([one(s) for s in t]), rtol=1e-5)


@every_schedule
def test_it_needs_no_warmup(name):
    np.testing.assert_allclose(schedule(name, 0.3, 1000)(0), 0.3, rtol=1e-6)
