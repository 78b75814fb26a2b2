"""Position-wise feed-forward layers: GELU (Vaswani et al. 2017, §3.3) and gated (Shazeer 2020, SwiGLU and GeGLU)."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from llm_jax.mesh.remat import named
from llm_jax.nn.declare import weight
from llm_jax.nn.initial import zeros
from llm_jax.nn.linear import linear

HIDDEN = ("batch", "seq", "act_mlp")
WIDTH = ("batch", "act_seq", "act_embed")
SLOPE, CUBE = math.sqrt(2 / math.pi), 0.044715


@jax.custom_vjp
def gelu(x: Array) -> Array:
    """The tanh form of GELU (Hendrycks & Gimpel 2016, §2), as in GPT-2; the gradient by hand reuses the tanh."""
    return _gelu_forward(x)[0]


def _gelu_forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    tanh = jnp.tanh(SLOPE * (x + CUBE * x * x * x))
    return 0.5 * x * (1 + tanh), (x, tanh)


def _gelu_backward(saved: tuple[Array, Array], dy: Array) -> tuple[Array]:
    x, tanh = saved
    return (dy * 0.5 * ((1 + tanh) + x * (1 - tanh * tanh) * SLOPE * (1 + 3 * CUBE * x * x)),)


gelu.defvjp(_gelu_forward, _gelu_backward)


def exact_gelu(x: Array) -> Array:
    """x · Φ(x), with the distribution function of the normal distribution (Hendrycks & Gimpel 2016)."""
    return jax.nn.gelu(x, approximate=False)


class Mlp(nn.Module):
    """down(activation(up(x))) with biases."""

    hidden: int
    up_init: Any
    down_init: Any
    activation: Callable[[Array], Array] = gelu

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        width = x.shape[-1]
        up = weight(self, "up", (width, self.hidden), ("embed", "mlp"), self.up_init)
        up_bias = weight(self, "up_bias", (self.hidden,), ("mlp",), zeros)
        down = weight(self, "down", (self.hidden, width), ("mlp", "embed"), self.down_init)
        down_bias = weight(self, "down_bias", (width,), ("embed",), zeros)
        hidden = self.activation(named(linear(x, up, up_bias, out=HIDDEN), "mlp_up"))
        return named(linear(named(hidden, "mlp_hidden"), down, down_bias, out=WIDTH), "mlp_out")


class GatedMlp(nn.Module):
    """down(activation(gate(x)) · up(x)), no biases."""

    hidden: int
    up_init: Any
    down_init: Any
    activation: Callable[[Array], Array] = jax.nn.silu

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        width = x.shape[-1]
        gate = weight(self, "gate", (width, self.hidden), ("embed", "mlp"), self.up_init)
        up = weight(self, "up", (width, self.hidden), ("embed", "mlp"), self.up_init)
        down = weight(self, "down", (self.hidden, width), ("mlp", "embed"), self.down_init)
        gated = self.activation(named(linear(x, gate, out=HIDDEN), "mlp_gate"))
        hidden = named(gated * named(linear(x, up, out=HIDDEN), "mlp_up"), "mlp_hidden")
        return named(linear(hidden, down, out=WIDTH), "mlp_out")
