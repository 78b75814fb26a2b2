"""Ring attention (Liu et al. 2023): each device keeps its queries, while keys and values pass round all devices.

Causal work is balanced by giving device d of n the chunks d and 2n - 1 - d of 2n (Llama Team 2024, §3.3.2; Zhu 2024,
"zigzag"), where the ring of whole neighbouring parts would leave the first device idle in all rounds but one. In each
round but the first there are exactly two pairs of chunks that causality leaves to a device, whatever its place, and
only these are computed. Windows that end within a few parts take neighbouring parts and only so many rounds.

The gradient by hand passes keys and values round once more, their gradients with them, and makes the scores of a block
of queries again: memory is linear in T. Letters beside those of the room: n devices, L tokens of one device, P parts of
C tokens of these, R queries a key head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from llm_jax.kernels.attention import NEGATIVE, visible

Axis = str | tuple[str, ...]
Pair = tuple[Any, Any]  # numbers of a part of queries and of a part of keys, static or traced


@dataclass(frozen=True)
class Ring:
    """Who computes what: `size` devices with `length` tokens each, along mesh axes `axis`.

    block: queries whose scores exist at a time, at most. ahead: whether queries see a prefix ahead of them.
    """

    axis: Axis
    size: int
    length: int
    causal: bool = True
    window: int | None = None
    softcap: float | None = None
    block: int = 512
    ahead: bool = False

    @property
    def one_way(self) -> bool:
        """Whether no token sees a later one."""
        return self.causal and not self.ahead

    @property
    def hops(self) -> int:
        """How often keys move on: no farther than a window reaches."""
        reach = self.window if self.one_way and self.window is not None else self.size * self.length
        return min(self.size - 1, -(-(reach - 1) // self.length))

    @property
    def parts(self) -> int:
        """2 in zigzag order, 1 for neighbouring parts: whichever computes fewer scores."""
        zigzag = self.one_way and self.length % 2 == 0 and 2 * self.size + 1 < 4 * (1 + self.hops)
        return 2 if zigzag else 1

    @property
    def rounds(self) -> int:
        """Zigzag order finds the keys of a window anywhere: it takes all rounds."""
        return self.size if self.parts == 2 else 1 + self.hops

    def start(self, device: Any, part: Any) -> Any:
        """The slot of the first token of a device's part."""
        chunk = device if self.parts == 1 else device + part * (2 * self.size - 1 - 2 * device)
        return chunk * (self.length // self.parts)

    def pairs(self, turn: int | Array, device: Any, source: Any) -> Sequence[Pair]:
        """The pairs of parts that `device` computes in a round with the keys of `source`; not all of 2 x 2."""
        if self.parts == 1:
            return [(0, 0)]
        if isinstance(turn, int) and turn == 0:
            return [(0, 0), (1, 0), (1, 1)]
        own = jnp.where(source < device, 0, 1)
        return [(1, 0), (own, own)]

    def query_block(self) -> int:
        """The largest number of queries up to `block` that divides a part."""
        part = self.length // self.parts
        return max(n for n in range(1, min(part, self.block) + 1) if part % n == 0)


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
    q, k, v, segments = (_parts(x, how) for x in (q, k, v, segments))
    early = None if prefix is None else _parts(prefix, how)
    q = q.reshape(*q.shape[:3], G, H // G, K).transpose(0, 1, 3, 4, 2, 5)
    mixed, log_z = _attend(q, k.swapaxes(2, 3), v.swapaxes(2, 3), segments, early, how)
    if sinks is not None:
        mixed = mixed * jax.nn.sigmoid(log_z - sinks.astype(jnp.float32).reshape(G, H // G, 1))[..., None]
    mixed = mixed.astype(v.dtype).transpose(0, 1, 4, 2, 3, 5)
    return _whole(mixed.reshape(*mixed.shape[:3], H, -1), how)


def _parts(x: Float[Array, "B L ..."], how: Ring) -> Float[Array, "P B C ..."]:
    """A device's own tokens as the parts that it works on; in zigzag order every second chunk goes each way."""
    if how.parts == 1:
        return x[None]
    even, odd = (
        jax.lax.ppermute(half, how.axis, _owners(how.size, first)) for first, half in enumerate(jnp.split(x, 2, axis=1))
    )
    swapped = jax.lax.axis_index(how.axis) % 2 == 1
    return jnp.where(swapped, jnp.stack([odd, even]), jnp.stack([even, odd]))


def _whole(x: Float[Array, "P B C ..."], how: Ring) -> Float[Array, "B L ..."]:
    """Undo `_parts`."""
    if how.parts == 1:
        return x[0]
    x = jnp.where(jax.lax.axis_index(how.axis) % 2 == 1, x[::-1], x)
    back = ([(owner, device) for device, owner in _owners(how.size, first)] for first in (0, 1))
    return jnp.concatenate([jax.lax.ppermute(half, how.axis, to) for half, to in zip(x, back, strict=True)], axis=1)


def _owners(size: int, first: int) -> list[tuple[int, int]]:
    """(device, who works on its even or odd chunk) of 2 · size chunks."""
    chunks = [(device, 2 * device + first) for device in range(size)]
    return [(device, min(chunk, 2 * size - 1 - chunk)) for device, chunk in chunks]


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
    (mixed, log_z), _ = _around(how, visit, nothing, (k, v, segments, prefix), ())
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
    dq, (dk, dv) = _around(how, visit, zeros[0], (k, v, segments, prefix), (zeros[1], zeros[2]))
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None, None


_attend.defvjp(_forward, _backward)


def _around(how: Ring, visit: Callable[..., Any], kept: Any, keys: Any, gone: Any) -> tuple[Any, Any]:
    """Return (kept, gone) after all rounds.

    visit: (kept, gone, keys, start, pair) -> (kept, gone), where start(i, j) is the slot of the first query of part i
    less that of the first key of part j. keys: what goes round. gone: what goes with it and comes home.
    """
    me = jax.lax.axis_index(how.axis)

    def turn(t: int | Array, kept: Any, keys: Any, gone: Any) -> tuple[Any, Any]:
        source = (me - t) % how.size
        for pair in how.pairs(t, me, source):
            kept, gone = visit(kept, gone, keys, lambda i, j: how.start(me, i) - how.start(source, j), pair)
        return kept, gone

    def move(tree: Any, by: int = 1) -> Any:
        to = [(device, (device + by) % how.size) for device in range(how.size)]
        return jax.tree.map(lambda x: jax.lax.ppermute(x, how.axis, to), tree)

    def step(t: int | Array, state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        kept, keys, gone = state
        following = move(keys)  # under way while this round is computed
        kept, gone = turn(t, kept, keys, gone)
        return kept, following, move(gone)

    last = how.rounds - 1
    if last:
        kept, keys, gone = step(0, (kept, keys, gone))
        kept, keys, gone = jax.lax.fori_loop(1, last, step, (kept, keys, gone))
    kept, gone = turn(last, kept, keys, gone)
    return kept, move(gone, how.size - last) if last else gone


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
