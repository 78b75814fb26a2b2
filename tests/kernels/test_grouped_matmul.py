"""Grouped products: every way gives what single products by hand give, forward and backward, on a mesh too."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.table import lookup
from llm_jax.kernels import GROUPED
from llm_jax.kernels.grouped_matmul import blockwise
from llm_jax.mesh import plan

E, D, F = 5, 6, 7
rng = np.random.default_rng(0)
KERNELS = rng.normal(size=(E, D, F)).astype(np.float32)
SIZES = {
    "mixed": [3, 0, 20, 1, 9],
    "the first is empty": [0, 9, 9, 9, 6],
    "the last is empty": [9, 9, 9, 6, 0],
    "all rows one expert's": [0, 0, 33, 0, 0],
    "rows of nobody": [3, 8, 0, 9, 1],
    "no row at all": [0, 0, 0, 0, 0],
    "whole blocks": [8, 8, 16, 0, 1],
}
ROWS = 33
X, DIRECTION = rng.normal(size=(ROWS, D)).astype(np.float32), rng.normal(size=(ROWS, F)).astype(np.float32)


def by_hand(sizes):
    """(y, dx, dkernels) of the sum of y · direction, group by group in numpy."""
    y, dx, dw, start = np.zeros((ROWS, F)), np.zeros((ROWS, D)), np.zeros(KERNELS.shape), 0
    for e, size in enumerate(sizes):
        rows = slice(start, start + size)
        y[rows], dx[rows] = X[rows] @ KERNELS[e], DIRECTION[rows] @ KERNELS[e].T
        dw[e], start = X[rows].T @ DIRECTION[rows], start + size
    return y, dx, dw


def learn(grouped):
    def total(x, kernels, sizes):
        y = grouped(x, kernels, sizes)
        return (y * DIRECTION).sum(), y

    step = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    return lambda x, kernels, sizes: (lambda out: (out[0][1], *out[1]))(step(x, kernels, sizes))


def member(name):
    """A member of the table, on CPU: Pallas by its interpreter."""
    found = lookup(GROUPED, name, "kernel")
    return partial(found, interpret=True) if name == "megablox" else found


STEPS = {name: learn(member(name)) for name in GROUPED}
STEPS["blocks of one row"] = learn(lambda *a: blockwise(*a, block=1))
STEPS["one block for all"] = learn(lambda *a: blockwise(*a, block=64))


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", STEPS)
def test_each_row_meets_its_own_matrix(name, sizes):
    found = STEPS[name](X, KERNELS, np.array(sizes, np.int32))
    for a, b in zip(found, by_hand(sizes), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", GROUPED)
def test_rows_of_nobody_do_not_matter_whatever_they_hold(name):
    """Exactly zero out of NaN in, and no gradient: a device gets rows that belong to another one's experts."""
    sizes = np.array(SIZES["rows of nobody"], np.int32)
    nobody = np.arange(ROWS)[:, None] >= sizes.sum()
    y, dx, dw = STEPS[name](np.where(nobody, 1e30, X), KERNELS, sizes)
    assert not np.any(np.asarray(y)[nobody[:, 0]]) and not np.any(np.asarray(dx)[nobody[:, 0]])
    np.testing.assert_allclose(dw, by_hand(sizes)[2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", GROUPED)
def test_bfloat16_gives_bfloat16_near_float32(name):
    half = [jnp.asarray(a, jnp.bfloat16) for a in (X, KERNELS)]
    found = STEPS[name](*half, np.array(SIZES["mixed"], np.int32))
    for a, b in zip(found, by_hand(SIZES["mixed"]), strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=0, atol=0.02 * np.abs(b).max())


def test_the_kernel_gradient_of_a_long_group_is_summed_in_float32():
    """4096 equal rows: a sum kept in bfloat16 would stand still at 256."""
    ones, kernel = jnp.ones((4096, 2), jnp.bfloat16), jnp.ones((1, 2, 2), jnp.bfloat16)
    gradient = jax.jit(jax.grad(lambda w: blockwise(ones, w, jnp.array([4096]), block=8).sum().astype("float32")))
    np.testing.assert_array_equal(gradient(kernel), np.full((1, 2, 2), 4096.0))


@pytest.mark.parametrize("name", sorted(GROUPED.keys() - {"megablox"}))  # which the partitioner cannot split
def test_operands_split_over_a_mesh_give_the_same(name):
    """Left to the partitioner, with rows, experts and columns split."""
    sizes = np.array([4, 0, 19, 9], np.int32)
    x, kernels = rng.normal(size=(32, D)).astype(np.float32), rng.normal(size=(4, D, 8)).astype(np.float32)
    grouped = lookup(GROUPED, name, "kernel")
    step = jax.jit(jax.value_and_grad(lambda x, w, s: jnp.square(grouped(x, w, s)).sum(), argnums=(0, 1)))
    alone = step(x, kernels, sizes)
    layout = plan.build({"data": 2, "expert": 2, "tensor": 2})
    with layout.active():
        placed = (
            jax.device_put(x, layout.sharding(("batch", None), x.shape)),
            jax.device_put(kernels, layout.sharding(("expert", "embed", "mlp"), kernels.shape)),
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), step(*placed, sizes), alone)
