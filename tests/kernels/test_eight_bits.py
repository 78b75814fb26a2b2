"""Products in eight bits: near the exact ones, gradients too, on a mesh as on one device, and where they may be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.core.table import UserError
from llm_jax.kernels.quantized import FORMATS, product
from llm_jax.mesh import plan
from llm_jax.models.decoder.llama import Llama
from llm_jax.models.moe.mixtral import Mixtral

rng = np.random.default_rng(0)
X, DY = rng.normal(size=(2, 16, 4, 32)), rng.normal(size=(2, 16, 24))
KERNEL = rng.normal(size=(4, 32, 24)) * np.exp(rng.normal(size=24))  # channels of very different sizes
BAND = {"int8": (0.003, 0.015), "fp8": (0.01, 0.08)}  # 7 bits of a channel's largest; 3 and 2 bits of mantissa


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FORMATS)
def test_products_and_gradients_are_near_the_exact_ones(name, dtype):
    x, kernel, dy = (jnp.asarray(a, dtype) for a in (X, KERNEL, DY))
    y, pullback = jax.vjp(lambda x, kernel: product(x, kernel, 2, name), x, kernel)
    exact, exactly = jax.vjp(lambda x, kernel: jnp.einsum("bthk,hkf->btf", x, kernel), x, kernel)
    (dx, dk), (dx_exact, dk_exact) = pullback(dy), exactly(dy)
    low, high = BAND[name]
    for found, expected in ((y, exact), (dx, dx_exact)):
        assert found.dtype == dtype and found.shape == expected.shape
        difference = np.asarray(found, np.float64) - np.asarray(expected, np.float64)
        assert low < np.linalg.norm(difference) / np.linalg.norm(np.asarray(expected, np.float64)) < high
    np.testing.assert_allclose(*(np.asarray(d, np.float32) for d in (dk, dk_exact)), rtol=2e-2, atol=1e-3)


def test_a_token_of_zeros_stays_zero():
    y, pullback = jax.vjp(lambda x: product(x, jnp.asarray(KERNEL), 2, "int8"), jnp.zeros(X.shape))
    assert not np.any(y) and np.isfinite(pullback(jnp.asarray(DY))[0]).all()


def test_a_mesh_quantizes_as_one_device_does():
    """A token's scale is its own, and a channel's is the whole kernel's, however both are cut.

    But for single values that stand half-way between two integers, and fall to one side or the other.
    """
    x, kernel = np.asarray(X, np.float32), np.asarray(KERNEL, np.float32)
    step = jax.jit(jax.value_and_grad(lambda x, k: jnp.square(product(x, k, 2, "int8")).mean(), argnums=(0, 1)))
    alone = step(x, kernel)
    layout = plan.build({"data": 2, "tensor": 4})
    with layout.active():
        x = jax.device_put(x, layout.sharding(("batch", None, "act_heads", None), x.shape))
        kernel = jax.device_put(kernel, layout.sharding(("heads", None, None), kernel.shape))
        for found, expected in zip(jax.tree.leaves(step(x, kernel)), jax.tree.leaves(alone), strict=True):
            assert np.linalg.norm(found - expected) < 2e-3 * np.linalg.norm(expected)  # a fifth of what rounding does


SIZES = {"vocab_size": 32, "num_layers": 2, "embed_dim": 32, "num_heads": 4}
TOKENS = rng.integers(0, 32, (2, 16))


@pytest.mark.rotates(2)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(Llama(**SIZES), id="llama", marks=pytest.mark.exhaustive),
        pytest.param(Mixtral(**SIZES, num_kv_heads=2), id="moe"),
    ],
)
def test_a_model_learns_nearly_the_same(model, name):
    """The gradient points the same way; the router, whose choices would flip, is not quantized."""
    params = model.init(jax.random.key(0))

    def loss(p):
        logits = model.apply(p, {"tokens": TOKENS}).logits
        return -(jax.nn.log_softmax(logits)[:, :-1] * jax.nn.one_hot(TOKENS[:, 1:], 32)).sum(-1).mean()

    gradients = []
    for layout in (plan.Plan(), plan.Plan(quantize=name)):
        with layout.active():
            value, gradient = jax.jit(jax.value_and_grad(loss))(params)
            gradients.append(np.concatenate([np.ravel(g) for g in [value, *jax.tree.leaves(gradient)]]))
    exact, found = gradients
    cosine = exact @ found / np.linalg.norm(exact) / np.linalg.norm(found)
    assert 0.99 < cosine < 1 - 1e-7


def test_an_unknown_format_is_refused():
    with pytest.raises(UserError, match=r"mesh\.quantize=.int4. is not one of None, int8, fp8"):
        plan.build({}, quantize="int4", devices=jax.devices()[:1])
