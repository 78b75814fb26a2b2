"""Scaled dot-product attention (Vaswani et al. 2017, eq. 1) with grouped queries (Ainslie et al. 2023).

`plain` is the reference. `blockwise` walks over blocks of queries and, where attention is causal, reads only the keys
that a block may see; the scores of one block are all that is ever stored, so memory is linear in T.
"""

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

NEGATIVE = -1e30
Segments = tuple[Int[Array, "B T"], Int[Array, "B S"]]


def plain(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S G K"],
    v: Float[Array, "B S G V"],
    *,
    causal: bool = True,
    offset: int | Int[Array, ""] = 0,
    segments: Segments | None = None,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Float[Array, "H"] | None = None,
    slots: Int[Array, "S"] | None = None,
    prefix: Bool[Array, "B S"] | None = None,
) -> Float[Array, "B T H V"]:
    """Return softmax(scale · q kᵀ) v over the keys that each query may see.

    Args:
        causal: query t sees keys up to slot offset + t.
        offset: the slot of the first query (that of a cache's end), static or traced.
        segments: numbers of queries and keys; a query sees only keys of its own number.
        window: a query sees at most this many keys back, itself included; as many ahead, where it sees later ones.
        scale: default K^-1/2.
        softcap: c · tanh(scores / c) before the mask (Gemma 2).
        sinks: of each head, the score of one more key whose value is zero (gpt-oss).
        slots: the slot of each key where they do not count from 0 (a ring of the last ones); below 0, no key.
        prefix: keys that causal queries see too where they stand before them, within the window.
    """
    B, T, H, K = q.shape
    S, G = k.shape[1], k.shape[2]
    R = H // G
    q = q * jnp.asarray(K**-0.5 if scale is None else scale, q.dtype)
    # Batch dimensions first: XLA's CPU backend multiplies small matrices fastest so.
    q = q.reshape(B, T, G, R, K).transpose(0, 2, 3, 1, 4).reshape(B, G, R * T, K)
    allowed = visible(T, S, causal=causal, offset=offset, segments=segments, window=window, slots=slots, prefix=prefix)
    mixed, log_z = _mix(q, k.swapaxes(1, 2), v.swapaxes(1, 2), allowed, (B, G, R, T, S), softcap)
    mixed = mixed.reshape(B, G, R, T, -1)
    if sinks is not None:
        others = log_z.reshape(B, G, R, T) - sinks.astype(jnp.float32).reshape(G, R, 1)
        mixed = mixed * jax.nn.sigmoid(others)[..., None].astype(mixed.dtype)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(B, T, H, -1)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _mix(
    q: Float[Array, "B G RT K"],
    k: Float[Array, "B G S K"],
    v: Float[Array, "B G S V"],
    allowed: Bool[Array, "..."] | None,
    shape: tuple[int, ...],
    softcap: float | None,
) -> tuple[Float[Array, "B G RT V"], Float[Array, "B G RT"]]:
    """Return softmax(q kᵀ) v where `allowed`, which broadcasts to `shape` [B,G,R,T,S], and the log of the sum.

    The gradient by hand normalises after the products, over V numbers a query and not over S.
    """
    return _mix_forward(q, k, v, allowed, shape, softcap)[0]


def _mix_forward(q, k, v, allowed, shape, softcap):
    B, G, R, T, S = shape
    scores = jnp.einsum("bgnk,bgsk->bgns", q, k, preferred_element_type=jnp.float32)
    capped = None if softcap is None else jnp.tanh(scores / softcap)
    scores = (scores if softcap is None else softcap * capped).reshape(shape)
    if allowed is not None:
        scores = jnp.where(allowed, scores, NEGATIVE)
    top = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - top).reshape(B, G, R * T, S)
    whole = weights.sum(-1, keepdims=True)
    inverse = 1 / whole
    mixed = jnp.einsum("bgns,bgsv->bgnv", weights.astype(v.dtype), v, preferred_element_type=jnp.float32) * inverse
    log_z = jnp.log(whole)[..., 0] + top[..., 0].reshape(B, G, R * T)
    return (mixed.astype(v.dtype), log_z), (q, k, v, allowed, mixed, weights, inverse, capped)


def _mix_backward(shape, softcap, saved, d):
    q, k, v, allowed, mixed, weights, inverse, capped = saved
    d_mixed = d[0].astype(jnp.float32) * inverse
    along = (d_mixed * mixed).sum(-1, keepdims=True) - d[1][..., None] * inverse
    d_mixed = d_mixed.astype(v.dtype)
    dv = jnp.einsum("bgns,bgnv->bgsv", weights.astype(v.dtype), d_mixed)
    scores = weights * (jnp.einsum("bgnv,bgsv->bgns", d_mixed, v, preferred_element_type=jnp.float32) - along)
    if allowed is not None:  # matters to a query that may see nothing, whose weights are not zero
        scores = jnp.where(allowed, scores.reshape(shape), 0.0).reshape(scores.shape)
    scores = (scores if softcap is None else scores * (1 - capped * capped)).astype(q.dtype)
    dq, dk = jnp.einsum("bgns,bgsk->bgnk", scores, k), jnp.einsum("bgns,bgnk->bgsk", scores, q)
    return dq, dk, dv, None


_mix.defvjp(_mix_forward, _mix_backward)


def visible(
    T: int,
    S: int,
    *,
    causal: bool,
    offset: int | Int[Array, ""],
    segments: Segments | None,
    window: int | None,
    slots: Int[Array, "S"] | None = None,
    prefix: Bool[Array, "B S"] | None = None,
) -> Array | None:
    """Return the mask, broadcastable to [B,G,R,T,S], of the keys that each query may see; None when it sees all."""
    distance = offset + jnp.arange(T)[:, None] - (jnp.arange(S) if slots is None else slots)[None, :]
    conditions = []
    if slots is not None:
        conditions.append((slots >= 0)[None, :])
    ahead: Any = True if window is None else distance > -window
    if causal:
        earlier = distance >= 0
        conditions.append(earlier if prefix is None else earlier | (prefix[:, None, None, None] & ahead))
    if window is not None:
        conditions.append(distance < window)
        if not causal:
            conditions.append(ahead)
    if segments is not None:
        conditions.append((segments[0][:, :, None] == segments[1][:, None, :])[:, None, None])
    return reduce(jnp.logical_and, conditions) if conditions else None


def blockwise(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S G K"],
    v: Float[Array, "B S G V"],
    *,
    causal: bool = True,
    offset: int | Int[Array, ""] = 0,
    segments: Segments | None = None,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Float[Array, "H"] | None = None,
    slots: Int[Array, "S"] | None = None,
    prefix: Bool[Array, "B S"] | None = None,
    block: int = 128,
    unrolled: int = 8,
) -> Float[Array, "B T H V"]:
    """Return what `plain` returns, one block of queries at a time (Rabe & Staats 2021).

    Up to four blocks stand one after the other and keep their scores for the gradient; more stand in at most `unrolled`
    spans, each a loop that makes its scores again. A block or span reads only the keys that causality and the window
    leave to it; a prefix may be anywhere, and leaves all.
    """
    options: dict[str, Any] = {
        "causal": causal, "window": window, "scale": scale, "softcap": softcap, "sinks": sinks, "slots": slots,
    }  # fmt: skip
    T, S, blocks = q.shape[1], k.shape[1], math.ceil(q.shape[1] / block)
    if blocks == 1:
        return plain(q, k, v, offset=offset, segments=segments, prefix=prefix, **options)
    if slots is not None or not isinstance(offset, int):
        return _looped(q, k, v, offset, segments, prefix, block=block, options=options)
    one = _plain(options) if blocks <= 4 else partial(_looped, block=block, options=options)
    # A loop of one turn is none to the compiler, which then merges the recomputed scores with the first ones.
    span = block if blocks <= 4 else block * max(2, math.ceil(blocks / unrolled))
    parts = []
    for start in range(0, T, span):
        stop = min(start + span, T)
        first = max(0, offset + start - window + 1) if window is not None else 0
        ahead = 0 if causal and prefix is None else S if window is None else window - 1
        last = min(S, offset + stop + ahead)
        seen = None if segments is None else (segments[0][:, start:stop], segments[1][:, first:last])
        early = None if prefix is None else prefix[:, first:last]
        parts.append(one(q[:, start:stop], k[:, first:last], v[:, first:last], offset + start - first, seen, early))
    return jnp.concatenate(parts, axis=1)


def _looped(
    q: Array, k: Array, v: Array, offset: Any, segments: Segments | None, prefix: Array | None, *, block: int,
    options: dict[str, Any],
) -> Array:  # fmt: skip
    """The blocks of queries in one `lax.map`: compile time and memory stay flat in their number."""
    B, T, H, _ = q.shape
    blocks = math.ceil(T / block)

    def split(x: Array) -> Array:
        padded = jnp.pad(x, ((0, 0), (0, blocks * block - T)) + ((0, 0),) * (x.ndim - 2))
        return jnp.moveaxis(padded.reshape(B, blocks, block, *x.shape[2:]), 1, 0)

    def one(xs: tuple[Array, ...]) -> Array:
        seen = None if segments is None else (xs[2], segments[1])
        return jax.checkpoint(_plain(options))(xs[0], k, v, xs[1], seen, prefix)

    starts = offset + block * jnp.arange(blocks)
    rows = (split(q), starts) if segments is None else (split(q), starts, split(segments[0]))
    return jnp.moveaxis(jax.lax.map(one, rows), 0, 1).reshape(B, blocks * block, H, v.shape[-1])[:, :T]


def _plain(options: dict[str, Any]) -> Callable[..., Array]:
    return lambda q, k, v, offset, segments, prefix: plain(
        q, k, v, offset=offset, segments=segments, prefix=prefix, **options
    )


def split_heads(x: Float[Array, "B S G K"], parts: int) -> Float[Array, "B S F K"]:
    """Return keys or values whose heads divide into `parts`: heads that queries share, repeated as often as needed."""
    finest = math.lcm(x.shape[2], parts)
    return x if finest == x.shape[2] else jnp.repeat(x, finest // x.shape[2], axis=2)
