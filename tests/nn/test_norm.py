"""The gradients written by hand are those of autodiff; the values are torch's."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.nn.mlp import gelu
from llm_jax.nn.norm import layer_norm, rms_norm

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "layers.npz")


def plain_layer_norm(x, scale, bias, eps):
    x32 = x.astype(jnp.float32)
    centred = x32 - x32.mean(-1, keepdims=True)
    y = centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + eps) * scale
    return (y if bias is None else y + bias).astype(x.dtype)


def plain_rms_norm(x, scale, eps):
    x32 = x.astype(jnp.float32)
    last = (-2, -1)[-scale.ndim :]
    return (x32 / jnp.sqrt(jnp.square(x32).mean(last, keepdims=True) + eps) * scale).astype(x.dtype)


def without_bias(norm):
    return lambda x, scale, eps: norm(x, scale, None, eps)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 1e-2)])
@pytest.mark.parametrize("shape", [(7, 16), (2, 3, 16)], ids=str)
@pytest.mark.parametrize("kind", ["layer", "layer without bias", "rms", "rms of two dimensions"])
def test_gradients_by_hand_are_those_of_autodiff(kind, shape, dtype, tolerance):
    rng = np.random.default_rng(0)
    x, direction = (jnp.asarray(rng.normal(size=shape) * 2 + 1, dtype) for _ in range(2))
    scale, bias = (jnp.asarray(rng.normal(size=16), dtype) for _ in range(2))
    both = jnp.asarray(rng.normal(size=shape[-2:]), dtype)
    ours, plain, rest = {
        "layer": (layer_norm, plain_layer_norm, (scale, bias)),
        "layer without bias": (without_bias(layer_norm), without_bias(plain_layer_norm), (scale,)),
        "rms": (rms_norm, plain_rms_norm, (scale,)),
        "rms of two dimensions": (rms_norm, plain_rms_norm, (both,)),
    }[kind]

    def run(function):
        y, pullback = jax.vjp(lambda *arguments: function(*arguments, 1e-3), x, *rest)
        return (y, *pullback(direction))

    for a, b in zip(jax.jit(lambda: run(ours))(), jax.jit(lambda: run(plain))(), strict=True):
        assert a.dtype == b.dtype == dtype
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


def test_norms_and_gates_are_those_of_torch():
    g = {name: jnp.asarray(GOLDEN[name]) for name in GOLDEN}

    def close(found, name):
        return np.testing.assert_allclose(found, g[name], rtol=2e-5, atol=2e-6, err_msg=name)

    close(layer_norm(g["x"], g["scale"], g["bias"], 1e-3), "layer_norm")
    close(rms_norm(g["x"], g["scale"], 1e-3), "rms_norm")
    close(gelu(g["x"]), "gelu")
    close(jax.nn.silu(g["x"]), "silu")


def test_a_large_mean_does_not_drown_the_variance():
    """Mean 100, deviation 1: the variance of float32 keeps three digits."""
    x = 100 + np.random.default_rng(0).normal(size=(4, 256)).astype(np.float32)
    exact = (x - x.mean(-1, keepdims=True, dtype=np.float64)) / x.std(-1, keepdims=True, dtype=np.float64)
    np.testing.assert_allclose(layer_norm(x, jnp.ones(256), jnp.zeros(256), 1e-9), exact, atol=5e-3)
