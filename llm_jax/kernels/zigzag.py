"""Who has which tokens of a text that is split over a ring of devices, and how keys and values pass round it.

Causal work is balanced by giving device d of n the chunks d and 2n - 1 - d of 2n (Llama Team 2024, §3.3.2; Zhu 2024,
"zigzag"), where the ring of whole neighbouring parts would leave the first device idle in all rounds but one. In each
round but the first there are exactly two pairs of chunks that causality leaves to a device, whatever its place, and
only these are computed. Windows that end within a few parts take neighbouring parts and only so many rounds.

Letters beside those of the room: n devices, L tokens of one device, P parts of C tokens of these.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

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


def parts(x: Float[Array, "B L ..."], how: Ring) -> Float[Array, "P B C ..."]:
    """A device's own tokens as the parts that it works on; in zigzag order every second chunk goes each way."""
    if how.parts == 1:
        return x[None]
    even, odd = (
        jax.lax.ppermute(half, how.axis, _owners(how.size, first)) for first, half in enumerate(jnp.split(x, 2, axis=1))
    )
    swapped = jax.lax.axis_index(how.axis) % 2 == 1
    return jnp.where(swapped, jnp.stack([odd, even]), jnp.stack([even, odd]))


def whole(x: Float[Array, "P B C ..."], how: Ring) -> Float[Array, "B L ..."]:
    """Undo `parts`."""
    if how.parts == 1:
        return x[0]
    x = jnp.where(jax.lax.axis_index(how.axis) % 2 == 1, x[::-1], x)
    back = ([(owner, device) for device, owner in _owners(how.size, first)] for first in (0, 1))
    return jnp.concatenate([jax.lax.ppermute(half, how.axis, to) for half, to in zip(x, back, strict=True)], axis=1)


def _owners(size: int, first: int) -> list[tuple[int, int]]:
    """(device, who works on its even or odd chunk) of 2 · size chunks."""
    chunks = [(device, 2 * device + first) for device in range(size)]
    return [(device, min(chunk, 2 * size - 1 - chunk)) for device, chunk in chunks]


def around(how: Ring, visit: Callable[..., Any], kept: Any, keys: Any, gone: Any) -> tuple[Any, Any]:
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
