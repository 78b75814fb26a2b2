"""The Mamba-2 mixer (Dao & Gu 2024): a short convolution, a state-space scan and a gate in place of attention.

Letters beside those of the room: P head size, N state size, G groups of heads that share B and C, W convolution width.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from llm_jax.core.table import lookup
from llm_jax.core.types import Key
from llm_jax.kernels import SSD
from llm_jax.mesh import plan
from llm_jax.mesh.place import place
from llm_jax.mesh.remat import named
from llm_jax.nn.attention import Context
from llm_jax.nn.declare import weight
from llm_jax.nn.initial import ones
from llm_jax.nn.linear import linear
from llm_jax.nn.recurrent.state import Part, Recurrent


def causal_conv(
    x: Float[Array, "B T ..."],
    kernel: Float[Array, "W ..."],
    bias: Float[Array, "..."],
    *,
    past: Float[Array, "B W-1 ..."] | None = None,
    segments: Int[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T ..."], Float[Array, "B W-1 ..."]]:
    """Return (each channel's weighted sum of the last W tokens + bias, the tokens that the next one will see).

    No token sees another segment. `past` are the tokens before the row, of its first token's segment; default none.
    """
    T, before = x.shape[1], kernel.shape[0] - 1
    x = (
        jnp.pad(x, ((0, 0), (before, 0), *((0, 0),) * (x.ndim - 2)))
        if past is None
        else jnp.concatenate([past, x], axis=1)
    )
    if segments is None:
        return sum((kernel[w] * x[:, w : w + T] for w in range(before + 1)), start=bias), x[:, T:]
    known = jnp.concatenate([jnp.repeat(segments[:, :1], before, axis=1), segments], axis=1)

    def within(tokens: Array, own: Array, of: Array) -> Array:
        return jnp.where((own == of).reshape(*own.shape, *(1,) * (x.ndim - 2)), tokens, 0)

    seen = (kernel[w] * within(x[:, w : w + T], known[:, w : w + T], segments) for w in range(before + 1))
    return sum(seen, start=bias), within(x[:, T:], known[:, T:], segments[:, -1:])


def gated_norm(
    y: Float[Array, "B T H P"], gate: Float[Array, "B T H P"], scale: Float[Array, "H P"], groups: int, eps: float
) -> Float[Array, "B T H P"]:
    """Return the RMSNorm of y · silu(gate) over the heads of each group, in float32.

    Squares are summed head by head first: heads may lie on several devices.
    """
    y32 = y.astype(jnp.float32) * jax.nn.silu(gate.astype(jnp.float32))
    H = y.shape[2]
    squares = place(jnp.square(y32).mean(-1), "batch", "seq", None)
    mean = squares.reshape(*squares.shape[:2], groups, H // groups).mean(-1)
    inverse = jnp.repeat(jax.lax.rsqrt(mean + eps), H // groups, axis=-1)
    return (y32 * place(inverse, "batch", "seq", "act_heads")[..., None] * scale).astype(y.dtype)


def _in_turn(segments: Int[Array, "B T"] | None) -> Int[Array, "B T"] | None:
    """Segments of whole texts: a recurrence reads a text in turn, wherever a mesh splits it."""
    return None if segments is None else place(segments, "batch", None)


def log_decay(key: Key, shape: tuple[int, ...]) -> Array:
    """log of the rates -A, uniform in [1, 16]."""
    return jnp.log(jax.random.uniform(key, shape, jnp.float32, 1.0, 16.0))


def step_bias(key: Key, shape: tuple[int, ...]) -> Array:
    """What softplus turns into step sizes between 0.001 and 0.1, uniform in their logarithm."""
    dt = jnp.exp(jax.random.uniform(key, shape, jnp.float32, math.log(1e-3), math.log(0.1)))
    return dt + jnp.log(-jnp.expm1(-dt))


def conv_init(width: int):
    """Uniform within ± 1/sqrt(W)."""
    return lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0) / math.sqrt(width)


class Mamba2Mixer(nn.Module):
    """out(norm(ssd(conv(x)) + D · conv(x), gate(x))), where B, C and the step sizes dt depend on x too.

    width: tokens that the convolution sees.
    """

    num_heads: int
    head_dim: int
    num_groups: int
    state_dim: int
    width: int
    in_init: Any
    out_init: Any
    kernel: str = "auto"
    eps: float = 1e-5

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], where: Context, layer: int | Array = 0, cache: Recurrent | None = None
    ) -> tuple[Float[Array, "B T D"], Recurrent | None]:
        H, P, past = self.num_heads, self.head_dim, cache and cache.read(layer)
        gate = self._project(x, "gate", (H, P), ("heads", "head"))
        u, window = self._convolved(x, "x", (H, P), ("heads", "head"), where, past)
        keys, key_window = self._convolved(x, "bc", (2, self.num_groups, self.state_dim), (None,) * 3, where, past)
        dt = self._project(x, "dt", (H,), ("heads",), exact=True).astype(jnp.float32)
        dt = jax.nn.softplus(dt + weight(self, "dt_bias", (H,), ("heads",), step_bias, exact=True))
        A = -jnp.exp(weight(self, "A_log", (H,), ("heads",), log_decay, exact=True))
        scan = lookup(SSD, self.kernel, "model.kernel")
        options = {"initial": past and past["state"], "segments": _in_turn(where.segments)}
        y, state = scan(u, dt, A, keys[:, :, 0], keys[:, :, 1], **options)
        y = named(y, "ssm")
        y = (y + u * weight(self, "D", (H,), ("heads",), ones, exact=True)[:, None]).astype(u.dtype)
        y = place(y, "batch", "seq", "act_heads", None)
        y = gated_norm(y, gate, weight(self, "norm_scale", (H, P), ("heads", "head"), ones), self.num_groups, self.eps)
        out = weight(self, "out", (H, P, x.shape[-1]), ("heads", "head", "embed"), self.out_init)
        if cache is not None:
            cache = cache.write(layer, {"x": window, "bc": key_window, "state": state})
        return linear(y, out, contract=2, out=("batch", "act_seq", "act_embed")), cache

    def _project(
        self, x: Array, name: str, shape: tuple[int, ...], axes: tuple[str | None, ...], *, exact: bool = False
    ) -> Array:
        kernel = weight(self, name, (x.shape[-1], *shape), ("embed", *axes), self.in_init)
        names = ("batch", "seq", *("act_heads" if a == "heads" else None for a in axes))
        return linear(x, kernel, out=names, exact=exact)

    def _convolved(self, x, name, shape, axes, where, past):
        names, draw = ("act_heads" if a == "heads" else None for a in axes), conv_init(self.width)
        projected = place(self._project(x, name, shape, axes), "batch", None, *names)
        kernel = weight(self, f"conv_{name}", (self.width, *shape), (None, *axes), draw)
        bias = weight(self, f"conv_{name}_bias", shape, axes, draw)
        y, window = causal_conv(projected, kernel, bias, past=past and past[name], segments=_in_turn(where.segments))
        return jax.nn.silu(y), window

    def state(self) -> dict[str, Part]:
        """What one layer keeps of a text."""
        H, P, G, N, before = self.num_heads, self.head_dim, self.num_groups, self.state_dim, self.width - 1
        dtype = plan.current().compute_dtype
        return {
            "x": Part((before, H, P), (None, "act_heads", None), dtype),
            "bc": Part((before, 2, G, N), (None,) * 4, dtype),
            "state": Part((H, P, N), ("act_heads", None, None), jnp.float32),
        }
