"""The state-space scan: chunk by chunk is token by token, and a document never feels what stands beside it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.table import lookup
from llm_jax.kernels import SSD

close = partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)
SEGMENTS = np.array([[1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 3], [0, 0, 5, 5, 5, 5, 5, 0, 0, 5, 2]], np.int32)


def inputs(T=11, seed=0):
    rng = np.random.default_rng(seed)
    H, P, G, N = 4, 3, 2, 5
    shapes = {"x": (2, T, H, P), "dt": (2, T, H), "A": (H,), "B": (2, T, G, N), "C": (2, T, G, N)}
    drawn = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    state = rng.normal(size=(2, H, P, N)).astype(np.float32)
    return drawn | {"dt": np.abs(drawn["dt"]), "A": -np.abs(drawn["A"]), "initial": state}


def by_hand(given, row, slots):
    """(y of these slots of a row, final state), written out, from the row's initial state."""
    state, ys = given["initial"][row].astype(np.float64), []
    for t in slots:
        x, dt, B, C = (given[name][row, t].astype(np.float64) for name in ("x", "dt", "B", "C"))
        B, C = B.repeat(2, axis=0), C.repeat(2, axis=0)
        state = state * np.exp(dt * given["A"])[:, None, None] + (dt[:, None] * x)[..., None] * B[:, None]
        ys.append((state * C[:, None]).sum(-1))
    return np.array(ys), state


@pytest.mark.parametrize("kind", SSD)
def test_one_text_is_the_recurrence_written_out(kind):
    given = inputs()
    y, state = jax.jit(lookup(SSD, kind, "kind"))(**given)
    for row in range(2):
        expected = by_hand(given, row, range(11))
        close(y[row], expected[0])
        close(state[row], expected[1])


@pytest.mark.parametrize("kind", SSD)
def test_state_stops_at_boundaries_and_steps_over_padding(kind):
    """The second row: padding, a text with padding within, and a text whose number is smaller."""
    given = inputs()
    y, state = jax.jit(lookup(SSD, kind, "kind"))(**given, segments=SEGMENTS)
    empty = given | {"initial": np.zeros_like(given["initial"])}
    texts = {(0, (0, 1, 2)): given, (0, tuple(range(3, 10))): empty, (0, (10,)): empty,
             (1, (2, 3, 4, 5, 6, 9)): given, (1, (10,)): empty}  # fmt: skip
    for (row, slots), start in texts.items():
        expected = by_hand(start, row, slots)
        close(y[row, list(slots)], expected[0])
        if slots[-1] == 10:
            close(state[row], expected[1])
    assert not np.any(y[1, [0, 1, 7, 8]])


@pytest.mark.parametrize("chunk", [1, 4, 11, 64])
@pytest.mark.parametrize("segments", [None, SEGMENTS], ids=["one text", "packed"])
def test_chunks_change_neither_values_nor_gradients(chunk, segments):
    def loss(given, scan):
        y, state = scan(**given, segments=segments)
        return jnp.sin(3 * y).sum() + jnp.cos(2 * state).sum()

    plain, chunked = (lookup(SSD, kind, "kind") for kind in ("plain", "chunked"))
    gradient = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    expected, found = gradient(inputs(), plain), gradient(inputs(), partial(chunked, chunk=chunk))
    jax.tree.map(partial(close, rtol=1e-4, atol=1e-4), found, expected)


@pytest.mark.parametrize("kind", SSD)
def test_a_text_may_be_read_in_pieces(kind):
    """The state of a piece is the beginning of the next; what padding fills a row up changes nothing."""
    scan, given = jax.jit(lookup(SSD, kind, "kind")), inputs()
    whole, final = scan(**given)
    ys, state = [], given["initial"]
    for start, stop in ((0, 4), (4, 5), (5, 11)):
        piece = {name: given[name][:, start:stop] for name in ("x", "dt", "B", "C")}
        y, state = scan(**piece, A=given["A"], initial=state)
        ys.append(y)
    close(np.concatenate(ys, axis=1), whole)
    close(state, final)


def test_strong_decay_gives_finite_gradients():
    """Between far tokens the factor underflows to zero, and its inverse would overflow."""
    given = inputs(T=40) | {"A": np.full(4, -80.0, np.float32)}
    chunked = lookup(SSD, "chunked", "kind")
    gradient = jax.jit(jax.grad(lambda given: chunked(**given)[0].sum()))(given)
    assert all(np.isfinite(g).all() for g in gradient.values())
