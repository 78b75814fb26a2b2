"""What a recurrent model remembers of the text so far, an explicit argument and result as of a decoder (`nn.cache`)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from llm_jax.mesh.place import place
from llm_jax.nn.cache import layer_of
from llm_jax.nn.stack import unroll_by_default


class Part(NamedTuple):
    """One array that a layer keeps of each row: shape and logical names without the row's own."""

    shape: tuple[int, ...]
    names: tuple[str | None, ...]
    dtype: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Recurrent:
    """What a recurrent model keeps of a text: the same size whatever its length.

    states: {part: [L,B,...]}; where the layers are unrolled, a tuple of L of them, {part: [B,...]}.
    length: tokens read so far, padding included. position: of each row's next token.
    """

    states: dict[str, Array] | tuple[dict[str, Array], ...]
    length: Int[Array, ""]
    position: Int[Array, "B"]

    def read(self, layer: int | Array) -> dict[str, Array]:
        """Return what one layer keeps."""
        if isinstance(self.states, tuple):
            return self.states[layer]
        return {name: layer_of(a, layer) for name, a in self.states.items()}

    def write(self, layer: int | Array, new: dict[str, Array]) -> "Recurrent":
        """Put what one layer now keeps in the place of what it kept."""
        if isinstance(self.states, tuple):
            new = {name: a.astype(self.states[layer][name].dtype) for name, a in new.items()}
            return replace(self, states=(*self.states[:layer], new, *self.states[layer + 1 :]))
        put = jax.lax.dynamic_update_index_in_dim
        return replace(self, states={n: put(a, new[n].astype(a.dtype), layer, 0) for n, a in self.states.items()})

    def forget(self, rows: Bool[Array, "B"]) -> "Recurrent":
        """Return the state as it is of texts of which nothing has been read, in these rows."""
        batch = 0 if isinstance(self.states, tuple) else 1  # the axis of the rows

        def emptied(a: Array) -> Array:
            return jnp.where(rows.reshape(*(1,) * batch, -1, *(1,) * (a.ndim - batch - 1)), jnp.zeros_like(a), a)

        position = jnp.where(rows, 0, self.position)
        return replace(self, states=jax.tree.map(emptied, self.states), position=position)

    def take(self, rows: Int[Array, "N"]) -> "Recurrent":
        """Return the state of these rows, in this order; a row may come more than once, or not at all."""
        axis = 0 if isinstance(self.states, tuple) else 1
        states = jax.tree.map(lambda a: jnp.take(a, rows, axis=axis), self.states)
        return replace(self, states=states, position=jnp.take(self.position, rows, axis=0))

    reorder = take

    def advance(self, real: Bool[Array, "B T"]) -> "Recurrent":
        """Count T tokens as read."""
        return replace(self, length=self.length + real.shape[1], position=self.position + real.sum(1, dtype=jnp.int32))


def empty(layers: int, batch_size: int, parts: Mapping[str, Part]) -> Recurrent:
    """Return the state of texts of which nothing has been read: zeros."""

    def zeros(*lead: int) -> dict[str, Array]:
        return {
            name: place(jnp.zeros((*lead, *p.shape), p.dtype), *(None,) * (len(lead) - 1), "batch", *p.names)
            for name, p in parts.items()
        }

    one_by_one = unroll_by_default(layers)
    states = tuple(zeros(batch_size) for _ in range(layers)) if one_by_one else zeros(layers, batch_size)
    return Recurrent(states, jnp.int32(0), jnp.zeros(batch_size, jnp.int32))
