"""State-space duality (Dao & Gu 2024, Mamba-2): a linear recurrence whose matrix state decays by a scalar a head.

For each head h, with the keys B and queries C of its group: state ← exp(dt·A) · state + dt · x Bᵀ, and y = state · C.
The state stops at a document boundary: it is empty where a document begins; one that is given belongs to the first
document of its row. Padding neither changes nor receives state. Everything is computed in float32. Letters beside those
of the room: P head size, N state size, Q tokens of a chunk, M heads a group.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from llm_jax.mesh import plan
from llm_jax.mesh.place import place

Result = tuple[Float[Array, "B T H P"], Float[Array, "B H P N"]]


def plain(
    x: Float[Array, "B T H P"],
    dt: Float[Array, "B T H"],
    A: Float[Array, "H"],
    B: Float[Array, "B T G N"],
    C: Float[Array, "B T G N"],
    *,
    initial: Float[Array, "B H P N"] | None = None,
    segments: Int[Array, "B T"] | None = None,
) -> Result:
    """Return (y, final state), token by token."""
    state, tokens = _prepared(x, dt, B, C, initial, segments)
    decay = A.reshape(state.shape[1:3])

    def one(carried: tuple[Array, Array], token: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        state, before = carried
        x, dt, B, C, document = token
        kept = jnp.exp(dt * decay) * (document == before)[:, None, None]
        state = state * kept[..., None, None] + jnp.einsum("bgm,bgmp,bgn->bgmpn", dt, x, B)
        return (state, document), jnp.einsum("bgmpn,bgn->bgmp", state, C)

    first = jnp.zeros_like(tokens[-1][:, 0])
    (state, _), y = jax.lax.scan(one, (state, first), jax.tree.map(_time_first, tokens))
    return _time_first(y).reshape(x.shape).astype(x.dtype), _whole(state)


def chunked(
    x: Float[Array, "B T H P"],
    dt: Float[Array, "B T H"],
    A: Float[Array, "H"],
    B: Float[Array, "B T G N"],
    C: Float[Array, "B T G N"],
    *,
    initial: Float[Array, "B H P N"] | None = None,
    segments: Int[Array, "B T"] | None = None,
    chunk: int = 64,
) -> Result:
    """Return what `plain` returns, by products of matrices: within a chunk as attention, between chunks by the state.

    The states between chunks are all that is kept for the backward pass.
    """
    state, tokens = _prepared(x, dt, B, C, initial, segments)
    T = x.shape[1]
    size = min(chunk, T)
    chunks = jax.tree.map(partial(_chunks, size=size), tokens)
    one = jax.checkpoint(partial(_chunk, A.astype(jnp.float32).reshape(state.shape[1:3])))
    first = jnp.zeros_like(tokens[-1][:, 0])
    (state, _), y = jax.lax.scan(one, (state, first), chunks)
    y = _time_first(y)
    return y.reshape(y.shape[0], -1, *x.shape[2:])[:, :T].astype(x.dtype), _whole(state)


def auto(x: Array, dt: Array, A: Array, B: Array, C: Array, **options: Any) -> Result:
    """`plain` for one token, `chunked` for more."""
    return (plain if x.shape[1] == 1 else chunked)(x, dt, A, B, C, **options)


def _chunk(
    A: Float[Array, "G M"], carried: tuple[Array, Array], tokens: tuple[Array, ...]
) -> tuple[tuple[Array, Array], Array]:
    """One chunk: ((state, document before it), its tokens [B,Q,…]) -> ((state, document) after it, y)."""
    state, before = carried
    x, dt, B, C, document = tokens
    u, decay = x * dt[..., None], jnp.cumsum(dt * A, axis=1)  # decay: the logarithm, since the chunk began
    last, after = decay[:, -1], document[:, -1]
    seen = (document[:, :, None] == document[:, None]) & jnp.tri(x.shape[1], dtype=bool)
    row = jnp.moveaxis(decay, 1, -1)
    weights = jnp.exp(jnp.where(seen[:, None, None], row[..., None] - row[..., None, :], -jnp.inf))
    weights = weights * jnp.einsum("bqgn,bsgn->bgqs", C, B)[:, :, None]
    y = jnp.einsum("bgmqs,bsgmp->bqgmp", weights, u)
    reached = jnp.exp(decay) * (document == before[:, None])[..., None, None]
    y = y + reached[..., None] * jnp.einsum("bqgn,bgmpn->bqgmp", C, state)
    lasting = jnp.exp(last[:, None] - decay) * (document == after[:, None])[..., None, None]
    kept = jnp.exp(last) * (after == before)[:, None, None]
    state = state * kept[..., None, None] + jnp.einsum("bsgmp,bsgn->bgmpn", u * lasting[..., None], B)
    return (state, after), y


def _prepared(x, dt, B, C, initial, segments) -> tuple[Array, tuple[Array, ...]]:
    """Return (state [B,G,M,P,N], (x [B,T,G,M,P], dt [B,T,G,M], B, C, document [B,T])), float32, padding silenced.

    A mesh may split heads finer than groups: there, each head has keys and queries of its own.
    """
    x, dt, B, C = (a.astype(jnp.float32) for a in (x, dt, B, C))
    H, G, rows = x.shape[2], B.shape[2], ("batch", None, "act_heads", None)
    if plan.current().mesh is not None and G > 1:
        G, B, C = H, *(place(jnp.repeat(a, H // G, axis=2), *rows) for a in (B, C))
    if initial is None:
        initial = jnp.zeros((x.shape[0], *x.shape[2:], B.shape[-1]), jnp.float32)
    state = place(initial.astype(jnp.float32), "batch", "act_heads", None, None)
    if segments is None:
        segments = place(jnp.ones(x.shape[:2], jnp.int32), "batch", None)
    real = (segments > 0)[..., None]
    dt, C = jnp.where(real, dt, 0), jnp.where(real[..., None], C, 0)
    x, dt, state = (_split(a, axis, G) for a, axis in ((place(x, *rows), 2), (place(dt, *rows[:3]), 2), (state, 1)))
    return state, (x, dt, B, C, _documents(segments))


def _documents(segments: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Return how many documents each token's row began before its own, the first one aside; padding goes on."""
    filled = jax.lax.associative_scan(lambda old, new: jnp.where(new > 0, new, old), segments, axis=1)
    changed = (filled[:, 1:] != filled[:, :-1]) & (filled[:, :-1] > 0)
    return jnp.cumsum(jnp.pad(changed, ((0, 0), (1, 0))), axis=1, dtype=jnp.int32)


def _split(a: Array, axis: int, groups: int) -> Array:
    """Heads H as groups and heads a group, G × M."""
    return a.reshape(*a.shape[:axis], groups, a.shape[axis] // groups, *a.shape[axis + 1 :])


def _whole(state: Float[Array, "B G M P N"]) -> Float[Array, "B H P N"]:
    return state.reshape(state.shape[0], -1, *state.shape[3:])


def _time_first(a: Array) -> Array:
    return jnp.swapaxes(a, 0, 1)


def _chunks(a: Array, size: int) -> Array:
    """[B,T,…] as [T/Q,B,Q,…], filled up with zeros, and documents with the last."""
    last = a[:, -1:] if jnp.issubdtype(a.dtype, jnp.integer) else jnp.zeros_like(a[:, -1:])
    a = jnp.concatenate([a, jnp.repeat(last, -a.shape[1] % size, axis=1)], axis=1)
    return _time_first(a.reshape(a.shape[0], -1, size, *a.shape[2:]))
