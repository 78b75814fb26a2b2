"""Rotary positions, dropout, stacks of layers, declarations and the cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core import keys, tree
from llm_jax.core.types import Declaration
from llm_jax.mesh import plan
from llm_jax.mesh import remat as remats
from llm_jax.nn import initial
from llm_jax.nn.attention import context
from llm_jax.nn.declare import initialize
from llm_jax.nn.dropout import dropout
from llm_jax.nn.linear import linear
from llm_jax.nn.rotary import frequencies, rotate
from llm_jax.nn.stack import stack, unstack

rng = np.random.default_rng(0)


def test_a_rotation_keeps_every_norm():
    x = rng.normal(size=(2, 5, 3, 8)).astype(np.float32)
    turned = rotate(x, np.arange(10).reshape(2, 5) * 37, frequencies(8))
    np.testing.assert_allclose(jnp.linalg.norm(turned, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-5)
    assert not np.allclose(turned, x)


def test_scores_of_rotated_vectors_depend_on_the_distance_alone():
    q, k = (np.tile(rng.normal(size=(1, 1, 2, 8)).astype(np.float32), (1, 6, 1, 1)) for _ in range(2))
    scores = [
        jnp.einsum("bthk,bthk->th", rotate(q, places + 3, frequencies(8)), rotate(k, places, frequencies(8)))
        for places in (np.arange(6)[None], np.arange(6)[None] + 100)
    ]
    np.testing.assert_allclose(scores[0], jnp.tile(scores[0][:1], (6, 1)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-3, atol=1e-4)


def test_a_pair_turns_as_a_complex_number():
    x, freq = rng.normal(size=(1, 4, 1, 6)).astype(np.float32), np.asarray(frequencies(6, 100.0))
    np.testing.assert_allclose(freq, [1.0, 100 ** (-1 / 3), 100 ** (-2 / 3)], rtol=1e-6)
    number = (x[..., :3] + 1j * x[..., 3:]) * np.exp(1j * np.arange(4)[None, :, None, None] * freq)
    turned = np.asarray(rotate(x, np.arange(4)[None], freq))
    np.testing.assert_allclose(turned, np.concatenate([number.real, number.imag], -1), rtol=1e-5, atol=1e-6)


def test_dropout_zeroes_at_its_rate_and_keeps_the_mean():
    x, n, rate = jnp.ones((200, 100)), 20_000, 0.3
    y = np.asarray(dropout(x, rate, jax.random.key(0)))
    assert abs((y == 0).mean() - rate) < 4 * (rate * (1 - rate) / n) ** 0.5
    np.testing.assert_allclose(y[y != 0], 1 / 0.7, rtol=1e-6)
    for axis in (0, 1):  # no row or column shares its draws
        spread = (y == 0).mean(axis).std()
        assert 0.7 < spread / (rate * (1 - rate) / y.shape[axis]) ** 0.5 < 1.3


def test_dropout_without_key_or_rate_is_nothing():
    x = jnp.ones(3)
    assert dropout(x, 0.9, None) is x and dropout(x, 0.0, jax.random.key(0)) is x


PARAMS = {"w": rng.normal(size=(3, 4, 4)).astype(np.float32), "b": rng.normal(size=(3, 4)).astype(np.float32)}


def layer(p, x, where, index, carried, key):
    return jnp.tanh(x @ p["w"] + p["b"]) + index, carried + x.sum() * (index + 1)


@pytest.mark.parametrize("remat", remats.WHOLE)
def test_a_stack_is_its_layers_one_after_the_other(remat):
    x = rng.normal(size=(2, 4)).astype(np.float32)

    def by_hand(params, x):
        carried = jnp.float32(0)
        for i in range(3):
            x, carried = layer({k: v[i] for k, v in params.items()}, x, None, i, carried, None)
        return x.sum() + carried

    with plan.Plan(remat=remat).active():
        expected = jax.jit(jax.value_and_grad(by_hand))(PARAMS, x)
        for unroll in (True, False):

            def run(p, x, unroll=unroll):
                return stack(layer, p, x, None, jnp.float32(0), unroll=unroll)

            found = jax.jit(jax.value_and_grad(lambda p, x, run=run: run(p, x)[0].sum() + run(p, x)[1]))(PARAMS, x)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)


@pytest.mark.parametrize("unroll", [None, False], ids=["by default", "scanned"])
def test_recomputing_saves_memory(unroll):
    """Of eight layers with a wide inside, only what goes from one to the next is kept."""

    def wide(p, x, where, index, carried, key):
        return x + jnp.tanh(jnp.tanh(jnp.tanh(x @ p) * 2) * 3) @ p.T, carried

    def temporary_bytes(remat):
        with plan.Plan(remat=remat).active():

            def loss(p, x):
                return stack(wide, p, x, None, unroll=unroll)[0].sum()

            shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((8, 8, 512), (256, 8))]
            return jax.jit(jax.grad(loss)).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes("full") < temporary_bytes("dots") < temporary_bytes("none")
    assert temporary_bytes("full") < 0.5 * temporary_bytes("none")


def test_unstacked_layers_have_the_gradient_of_the_stack():
    direction = rng.normal(size=(3, 4, 4)).astype(np.float32)

    def rows(f):
        return lambda p: sum((f(p)[i]["w"] * direction[i] * (i + 1)).sum() for i in range(3))

    ours = jax.grad(rows(unstack))(PARAMS)
    plainly = jax.grad(rows(lambda p: [{k: v[i] for k, v in p.items()} for i in range(3)]))(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, ours, plainly)
    assert [np.array_equal(r["w"], w) for r, w in zip(unstack(PARAMS), PARAMS["w"], strict=True)] == [True] * 3


def table(layers=2, **more):
    stacked = Declaration((layers, 3, 4), ("layer", "embed", "mlp"), initial.normal(1.0))
    return {"blocks/w": stacked, "embed/tokens": Declaration((5, 3), ("vocab", "embed"), initial.normal(1.0))} | more


def test_a_parameter_keeps_its_values_when_others_come_and_go():
    """The key of a value is that of its path, and a deeper stack only adds layers."""
    key, extra = jax.random.key(0), Declaration((7,), (None,), initial.normal(1.0))
    small, large = initialize(table(), key), initialize(table(layers=5, **{"blocks/bias": extra}), key)
    np.testing.assert_array_equal(small["embed"]["tokens"], large["embed"]["tokens"])
    np.testing.assert_array_equal(small["blocks"]["w"], large["blocks"]["w"][:2])


def test_no_two_parameters_nor_layers_share_their_values():
    made = initialize(table(**{"blocks/v": table()["blocks/w"]}), jax.random.key(0))["blocks"]
    rows = np.concatenate([made["w"].reshape(2, -1), made["v"].reshape(2, -1)])
    assert np.abs(np.corrcoef(rows) - np.eye(4)).max() < 0.9


def test_fan_in_keeps_the_variance_of_what_it_multiplies():
    kernel = initial.fan_in(2)(jax.random.key(0), (8, 32, 50))
    assert abs(float(kernel.std()) * 16 - 1) < 0.03 and float(jnp.abs(kernel).max()) * 16 < 2 / 0.87


def test_positions_count_from_zero_in_every_run_of_a_segment():
    segments = np.array([[1, 1, 1, 2, 2, 3, 0, 0], [0, 0, 1, 1, 1, 1, 2, 3], [4, 4, 4, 4, 4, 4, 4, 4]])
    where = context({"tokens": np.zeros_like(segments), "segments": segments})
    expected = [[0, 1, 2, 0, 1, 0, 0, 1], [0, 1, 0, 1, 2, 3, 0, 0], [0, 1, 2, 3, 4, 5, 6, 7]]
    np.testing.assert_array_equal(where.positions, expected)
    np.testing.assert_array_equal(where.real(), segments > 0)


def test_given_positions_are_kept():
    where = context({"tokens": np.zeros((1, 3), int), "positions": np.array([[4, 5, 6]])})
    np.testing.assert_array_equal(where.positions, [[4, 5, 6]])


def test_linear_contracts_over_any_number_of_dimensions():
    x, kernel, bias = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(4, 5, 6, 7)), rng.normal(size=(6, 7))
    found = linear(x, kernel, bias, contract=2, out=(None,) * 4)
    np.testing.assert_allclose(found, np.einsum("btij,ijkl->btkl", x, kernel) + bias, rtol=1e-4, atol=1e-4)


def test_keys_differ_by_name_and_step():
    key = jax.random.key(0)
    made = [keys.fold(key, name, step) for name in ("a", "b") for step in (0, 1)]
    assert len({tuple(jax.random.key_data(k).tolist()) for k in made}) == 4
    traced = jax.jit(lambda s: jax.random.key_data(keys.fold(key, "a", s)))(1)
    np.testing.assert_array_equal(traced, jax.random.key_data(made[1]))


def test_trees_go_through_paths_and_back():
    nested = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert tree.flatten(nested) == {"a/b": 1, "a/c/d": 2, "e": 3} and tree.unflatten(tree.flatten(nested)) == nested
