"""LayerNorm (Ba et al. 2016) and RMSNorm (Zhang & Sennrich 2019), computed in float32, with gradients by hand.

The hand-written backward pass reads x once and fuses into one loop; the law tests hold it against autodiff.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from llm_jax.nn.declare import weight
from llm_jax.nn.initial import ones, zeros


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "*N D"], scale: Float[Array, "D"], bias: Float[Array, "D"] | None, eps: float = 1e-5
) -> Float[Array, "*N D"]:
    """Return (x - mean) / sqrt(var + eps) · scale + bias over the last dimension."""
    return _layer_norm_forward(x, scale, bias, eps)[0]


def _layer_norm_forward(x, scale, bias, eps):
    x32 = x.astype(jnp.float32)
    mean = x32.mean(-1, keepdims=True)
    variance = jnp.maximum((x32 * x32).mean(-1, keepdims=True) - mean * mean, 0.0)
    inverse = jax.lax.rsqrt(variance + eps)
    y = (x32 - mean) * inverse * scale
    y = y if bias is None else y + bias
    return y.astype(x.dtype), (x, scale, bias, mean, inverse)


def _layer_norm_backward(eps, saved, dy):
    x, scale, bias, mean, inverse = saved
    x32, dy32 = x.astype(jnp.float32), dy.astype(jnp.float32)
    normal = (x32 - mean) * inverse
    dnormal = dy32 * scale
    dx = inverse * (dnormal - dnormal.mean(-1, keepdims=True) - normal * (dnormal * normal).mean(-1, keepdims=True))
    lead = tuple(range(x.ndim - 1))
    dscale = (dy32 * normal).sum(lead).astype(scale.dtype)
    dbias = None if bias is None else dy32.sum(lead).astype(bias.dtype)
    return dx.astype(x.dtype), dscale, dbias


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_norm(x: Float[Array, "*N"], scale: Float[Array, "..."], eps: float = 1e-6) -> Float[Array, "*N"]:
    """Return x / sqrt(mean(x²) + eps) · scale over the last dimensions, those that `scale` has."""
    return _rms_norm_forward(x, scale, eps)[0]


def _rms_norm_forward(x, scale, eps):
    x32 = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt((x32 * x32).mean(_last(scale), keepdims=True) + eps)
    return (x32 * inverse * scale).astype(x.dtype), (x, scale, inverse)


def _rms_norm_backward(eps, saved, dy):
    x, scale, inverse = saved
    x32, dy32 = x.astype(jnp.float32), dy.astype(jnp.float32)
    normal = x32 * inverse
    dnormal = dy32 * scale
    dx = inverse * (dnormal - normal * (dnormal * normal).mean(_last(scale), keepdims=True))
    dscale = (dy32 * normal).sum(tuple(range(x.ndim - scale.ndim))).astype(scale.dtype)
    return dx.astype(x.dtype), dscale


def _last(scale: Array) -> tuple[int, ...]:
    return tuple(range(-scale.ndim, 0))


rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


class LayerNorm(nn.Module):
    """`layer_norm` with its scale and, by default, its bias."""

    eps: float = 1e-5
    bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
        scale = weight(self, "scale", x.shape[-1:], ("embed",), ones)
        bias = weight(self, "bias", x.shape[-1:], ("embed",), zeros) if self.bias else None
        return layer_norm(x, scale, bias, self.eps)


class RmsNorm(nn.Module):
    """`rms_norm` with its scale; axes: logical names of the last dimensions, over which it is taken."""

    eps: float = 1e-6
    axes: tuple[str, ...] = ("embed",)

    @nn.compact
    def __call__(self, x: Float[Array, "*N"]) -> Float[Array, "*N"]:
        return rms_norm(x, weight(self, "scale", x.shape[-len(self.axes) :], self.axes, ones), self.eps)


class ShiftedRmsNorm(nn.Module):
    """`rms_norm` by 1 + its scale, which is 0 at first (Gemma)."""

    eps: float = 1e-6
    axes: tuple[str, ...] = ("embed",)

    @nn.compact
    def __call__(self, x: Float[Array, "*N"]) -> Float[Array, "*N"]:
        scale = weight(self, "scale", x.shape[-len(self.axes) :], self.axes, zeros)
        return rms_norm(x, 1 + scale.astype(jnp.float32), self.eps)
