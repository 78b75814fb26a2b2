"""Ring attention (Liu et al. 2023): each device keeps its queries, while keys and values pass round all devices.

Which tokens a device has, and which it computes in each round, is said in `zigzag`.

The gradient by hand passes keys and values round once more, their gradients with them, and makes the scores of a block
of queries again: memory is linear in T. Letters beside those of the room: n devices, L tokens of one device, P parts of
C tokens of these, R queries a key head.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from llm_jax.kernels.attention import NEGATIVE, visible
from llm_jax.kernels.zigzag import Axis, Pair, Ring, around, parts, whole


def ring(
    q: Float[Array, "B L H K"],
    k: Float[Array, "B L G K"],
    v: Float[Array, "B L G V"],
    segments: Int[Array, "B L"] | None = None,
    sinks: Float[Array, "H"] | None = None,
    prefix: Bool[Array, "B L"] | None = None,
    *,
    axis: Axis,
    causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    block: int = 512,
) -> Float[Array, "B L H V"]:
    """Return this device's part of attention over all of them; to be called within `shard_map`.

    Tokens come and go in their own order, split evenly over `axis`. The options are those of `attention.plain`.
    """
    B, L, H, K = q.shape
    G = k.shape[2]
    how = Ring(axis, jax.lax.axis_size(axis), L, causal, window, softcap, block, prefix is not None)
    q = q * jnp.asarray(K**-0.5 if scale is None else scale, q.dtype)
    segments = jnp.ones((B, L), jnp.int32) if segments is None else segments
    q, k, v, segments = (parts(x, how) for x in (q, k, v, segments))
    early = None if prefix is None else parts(prefix, how)
    q = q.reshape(*q.shape[:3], G, H // G, K).transpose(0, 1, 3, 4, 2, 5)
    mixed, log_z = _attend(q, k.swapaxes(2, 3), v.swapaxes(2, 3), segments, early, how)
    if sinks is not None:
        mixed = mixed * jax.nn.sigmoid(log_z - sinks.astype(jnp.float32).reshape(G, H // G, 1))[..., None]
    mixed = mixed.astype(v.dtype).transpose(0, 1, 4, 2, 3, 5)
    return whole(mixed.reshape(*mixed.shape[:3], H, -1), how)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(
    q: Float[Array, "P B G R C K"],
    k: Float[Array, "P B G C K"],
    v: Float[Array, "P B G C V"],
    segments: Int[Array, "P B C"],
    prefix: Bool[Array, "P B C"] | None,
    how: Ring,
) -> tuple[Float[Array, "P B G R C V"], Float[Array, "P B G R C"]]:
    """Return attention in float32, and the log of the sum of the weights."""
    return _forward(q, k, v, segments, prefix, how)[0]


def _forward(q: Array, k: Array, v: Array, segments: Array, prefix: Array | None, how: Ring) -> Any:
    def visit(kept: Any, gone: Any, keys: Any, start: Callable[..., Any], pair: Pair) -> Any:
        i, j = pair
        mixed, log_z = kept

        def block(xs: tuple[Array, ...]) -> tuple[Array, Array]:
            scores, _ = _scores(xs[0], keys, j, start(*pair) + xs[2], xs[1], how)
            top = scores.max(-1, keepdims=True)
            weights = jnp.exp(scores - top)
            sums = weights.sum(-1, keepdims=True)
            part = jnp.einsum(
                "bgrts,bgsv->bgrtv", weights.astype(v.dtype), keys[1][j], preferred_element_type=jnp.float32
            )
            return part / sums, (jnp.log(sums) + top)[..., 0]

        more, more_z = (_joined(x, 3) for x in jax.lax.map(block, _blocks(how, q[i], segments[i])))
        total = jnp.logaddexp(log_z[i], more_z)
        old, new = (jnp.exp(z - total)[..., None] for z in (log_z[i], more_z))
        return (mixed.at[i].set(old * mixed[i] + new * more), log_z.at[i].set(total)), gone

    nothing = jnp.zeros((*q.shape[:-1], v.shape[-1]), jnp.float32), jnp.full(q.shape[:-1], 2 * NEGATIVE, jnp.float32)
    (mixed, log_z), _ = around(how, visit, nothing, (k, v, segments, prefix), ())
    return (mixed, log_z), (q, k, v, segments, prefix, mixed, log_z)


def _backward(how: Ring, saved: tuple[Array, ...], d: tuple[Array, Array]) -> tuple[Array, Array, Array, None, None]:
    q, k, v, segments, prefix, mixed, log_z = saved
    along = (d[0] * mixed).sum(-1) - d[1]
    d_mixed = d[0].astype(v.dtype)

    def visit(dq: Array, gone: tuple[Array, Array], keys: Any, start: Callable[..., Any], pair: Pair) -> Any:
        i, j = pair
        key, value = keys[0][j], keys[1][j]

        def block(totals: tuple[Array, Array], xs: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
            q, own, first, d_mixed, log_z, along = xs
            scores, slope = _scores(q, keys, j, start(*pair) + first, own, how)
            weights = jnp.exp(scores - log_z[..., None])
            d_weights = jnp.einsum("bgrtv,bgsv->bgrts", d_mixed, value, preferred_element_type=jnp.float32)
            d_scores = (weights * (d_weights - along[..., None]) * slope).astype(q.dtype)
            dk = jnp.einsum("bgrts,bgrtk->bgsk", d_scores, q, preferred_element_type=jnp.float32)
            dv = jnp.einsum(
                "bgrts,bgrtv->bgsv", weights.astype(value.dtype), d_mixed, preferred_element_type=jnp.float32
            )
            dq = jnp.einsum("bgrts,bgsk->bgrtk", d_scores, key, preferred_element_type=jnp.float32)
            return (totals[0] + dk, totals[1] + dv), dq

        more = _blocks(how, q[i], segments[i], d_mixed[i], log_z[i], along[i])
        (dk, dv), blocks = jax.lax.scan(block, (gone[0][j], gone[1][j]), more)
        return dq.at[i].add(_joined(blocks, 3)), (gone[0].at[j].set(dk), gone[1].at[j].set(dv))

    zeros = [jnp.zeros(x.shape, jnp.float32) for x in (q, k, v)]
    dq, (dk, dv) = around(how, visit, zeros[0], (k, v, segments, prefix), (zeros[1], zeros[2]))
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None, None


_attend.defvjp(_forward, _backward)


def _scores(q: Array, keys: Any, part: Any, offset: Array, own: Array, how: Ring) -> tuple[Array, Array | float]:
    """Return float32 scores [B,G,R,T,S] of scaled queries, NEGATIVE where not seen, and the slope of the soft cap.

    keys: what goes round, of which `part` is asked for. own: segments of the queries.
    """
    k, segments, prefix = keys[0][part], keys[2][part], None if keys[3] is None else keys[3][part]
    scores = jnp.einsum("bgrtk,bgsk->bgrts", q, k, preferred_element_type=jnp.float32)
    slope: Array | float = 1.0
    if how.softcap is not None:
        capped = jnp.tanh(scores / how.softcap)
        scores, slope = how.softcap * capped, 1 - capped * capped
    T, S = scores.shape[-2:]
    seen: Any = visible(
        T, S, causal=how.causal, offset=offset, segments=(own, segments), window=how.window, prefix=prefix
    )
    return jnp.where(seen, scores, NEGATIVE), slope


def _blocks(how: Ring, q: Float[Array, "B G R C K"], own: Int[Array, "B C"], *more: Array) -> tuple[Array, ...]:
    """Queries, their segments, the first of each block and whatever else is [B,G,R,C,…], block by block in front."""
    size = how.query_block()
    first = jnp.arange(0, q.shape[3], size)
    return (_split(q, 3, size), _split(own, 1, size), first, *(_split(x, 3, size) for x in more))


def _split(x: Array, axis: int, size: int) -> Array:
    return jnp.moveaxis(x.reshape(*x.shape[:axis], -1, size, *x.shape[axis + 1 :]), axis, 0)


def _joined(x: Array, axis: int) -> Array:
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
