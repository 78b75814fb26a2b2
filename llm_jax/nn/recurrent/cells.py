"""Recurrent layers: one step of a cell after another along the text, with everything else done for all steps at once.

LSTM: Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000. GRU: Cho et al. 2014, in the form that
applies the reset gate after the recurrent product, as cuDNN's does. Variational dropout: Gal & Ghahramani 2016.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from llm_jax.core import keys
from llm_jax.core.types import Key
from llm_jax.mesh import plan
from llm_jax.mesh.place import place
from llm_jax.nn.attention import Context
from llm_jax.nn.declare import weight
from llm_jax.nn.initial import fan_in, zeros
from llm_jax.nn.linear import linear
from llm_jax.nn.recurrent.state import Part, Recurrent

State = dict[str, Array]
KERNEL = fan_in()


def lstm(gates: Float[Array, "B 4 D"], state: State) -> tuple[Float[Array, "B D"], State]:
    """One step: input, forget, candidate and output gates before their squashing -> output and state."""
    write, keep, candidate, out = (gates[:, i].astype(jnp.float32) for i in range(4))
    cell = jax.nn.sigmoid(keep) * state["cell"] + jax.nn.sigmoid(write) * jnp.tanh(candidate)
    hidden = (jax.nn.sigmoid(out) * jnp.tanh(cell)).astype(gates.dtype)
    return hidden, {"hidden": hidden, "cell": cell}


def gru(
    inputs: Float[Array, "B 3 D"], recurrent: Float[Array, "B 3 D"], state: State
) -> tuple[Float[Array, "B D"], State]:
    """One step: reset and update gates and the candidate, of the input and of the state -> output and state."""
    x, h = inputs.astype(jnp.float32), recurrent.astype(jnp.float32)
    reset, update = jax.nn.sigmoid(x[:, 0] + h[:, 0]), jax.nn.sigmoid(x[:, 1] + h[:, 1])
    candidate = jnp.tanh(x[:, 2] + reset * h[:, 2])
    hidden = (1 - update) * candidate + update * state["hidden"].astype(jnp.float32)
    return hidden.astype(inputs.dtype), {"hidden": hidden.astype(inputs.dtype)}


def begins(segments: Int[Array, "B T"]) -> Array:
    """Which tokens are the first of their text, bool [B,T]; the first of a row goes on from what came before it."""
    changed = segments[:, 1:] != segments[:, :-1]
    return jnp.pad(changed & (segments[:, 1:] > 0), ((0, 0), (1, 0)))


def _forget_one(key: Key, shape: tuple[int, ...]) -> Array:
    """Zeros, and ones for the forget gate, so that a new network remembers (Jozefowicz et al. 2015)."""
    return jnp.zeros(shape, jnp.float32).at[1].set(1.0)


@dataclass(frozen=True)
class Lstm:
    """The cell of an LSTM; the cell's own state is float32."""

    gates: int = 4
    late_bias: bool = False
    init: Any = KERNEL
    bias: Any = _forget_one

    def step(self, inputs: Array, recurrent: Array, late: Array | None, state: State) -> tuple[Array, State]:
        """One step, see `lstm`."""
        return lstm(inputs + recurrent, state)

    def state(self, width: int) -> dict[str, Part]:
        """What a layer keeps of a text."""
        return _hidden(width) | {"cell": Part((width,), ("act_mlp",), jnp.float32)}


@dataclass(frozen=True)
class Gru:
    """The cell of a GRU, whose candidate has a second bias, of what the reset gate scales."""

    gates: int = 3
    late_bias: bool = True
    init: Any = KERNEL
    bias: Any = zeros

    def step(self, inputs: Array, recurrent: Array, late: Array | None, state: State) -> tuple[Array, State]:
        """One step, see `gru`."""
        return gru(inputs, recurrent.at[:, 2].add(late), state)

    def state(self, width: int) -> dict[str, Part]:
        """What a layer keeps of a text."""
        return _hidden(width)


def _hidden(width: int) -> dict[str, Part]:
    return {"hidden": Part((width,), ("act_mlp",), plan.current().compute_dtype)}


class RecurrentLayer(nn.Module):
    """x -> the outputs of a cell along the text, of the width of x.

    cell: `Lstm` or `Gru` of this module. dropout: of the inputs, recurrent_dropout: of the state between steps, each by
    one mask for all steps of a row.
    """

    cell: Any
    dropout: float = 0.0
    recurrent_dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], where: Context, layer: Any = 0, cache: Recurrent | None = None,
        key: Key | None = None,
    ) -> tuple[Float[Array, "B T D"], Recurrent | None]:  # fmt: skip
        D, cell = x.shape[-1], self.cell
        drop = [None, None] if key is None else [keys.fold(key, name, layer) for name in ("input", "state")]
        x = variational(x, self.dropout, drop[0], axis=1)
        shape, axes = (D, cell.gates, D), ("embed", None, "mlp")
        inner = weight(self, "input", shape, axes, cell.init)
        bias = weight(self, "bias", shape[1:], axes[1:], cell.bias)
        inputs = place(linear(x, inner, bias, out=("batch", "seq", None, "act_mlp")), "batch", None, None, "act_mlp")
        kernel = weight(self, "recurrent", shape, axes, cell.init)
        late = weight(self, "recurrent_bias", (D,), ("mlp",), zeros) if cell.late_bias else None
        mask = variational(jnp.ones((x.shape[0], D), x.dtype), self.recurrent_dropout, drop[1])
        state = _empty(x.shape[0], cell, D) if cache is None else cache.read(layer)
        segments = None if where.segments is None else place(where.segments, "batch", None)
        outputs, state = _along(cell, inputs, kernel, late, mask, state, segments)
        outputs = place(place(outputs, "batch", None, None), "batch", "act_seq", "act_embed")
        return outputs, cache and cache.write(layer, state)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _along(cell, inputs, kernel, late, mask, state, segments):
    """Return the outputs [B,T,D] of all steps and the state after the last; padding leaves the state as it is.

    The kernel's gradient is one product of all steps, not one of few rows in each.
    """
    return _steps(cell, kernel, segments, inputs, None, late, mask, state)[:2]


def _forward(cell, inputs, kernel, late, mask, state, segments):
    given = inputs, jnp.zeros_like(inputs), late, mask, state
    (*out, hidden), back = jax.vjp(partial(_steps, cell, kernel, segments), *given)
    return tuple(out), (back, hidden, kernel)


def _backward(cell, saved, d):
    back, hidden, kernel = saved
    inputs, products, late, mask, state = back((*d, jnp.zeros_like(hidden)))
    (of_kernel,) = jax.vjp(lambda kernel: jnp.einsum("btd,dgf->btgf", hidden, kernel), kernel)[1](products)
    return inputs, of_kernel, late, mask, state, None


_along.defvjp(_forward, _backward)


def _steps(cell, kernel, segments, inputs, beside, late, mask, state):
    """Return as `_along`, and what was multiplied by the kernel [B,T,D]; beside: what each product is added to."""
    steps = {"inputs": inputs} | ({} if beside is None else {"beside": beside})
    if segments is not None:
        steps |= {"real": segments > 0, "begins": begins(segments)}

    def step(state: State, now: dict[str, Array]) -> tuple[State, tuple[Array, Array]]:
        if segments is not None:
            state = {name: jnp.where(now["begins"][:, None], 0, value) for name, value in state.items()}
        hidden = (place(state["hidden"], "batch", None) * mask).astype(kernel.dtype)
        product = jnp.einsum("bd,dgf->bgf", hidden, kernel)
        product = product if beside is None else product + now["beside"]
        output, new = cell.step(now["inputs"], product, late, state)
        if segments is not None:
            new = {name: jnp.where(now["real"][:, None], value, state[name]) for name, value in new.items()}
        return new, (output, hidden)

    state = {name: value.astype(inputs.dtype) if name == "hidden" else value for name, value in state.items()}
    state, (outputs, hidden) = jax.lax.scan(step, state, {name: jnp.moveaxis(x, 1, 0) for name, x in steps.items()})
    return jnp.moveaxis(outputs, 0, 1), state, jnp.moveaxis(hidden, 0, 1)


def variational(x: Array, rate: float, key: Key | None, axis: int | None = None) -> Array:
    """Return x with whole features of each row dropped, the same along `axis` (Gal & Ghahramani 2016)."""
    if key is None or rate == 0.0:
        return x
    shape = tuple(1 if i == axis else n for i, n in enumerate(x.shape))
    return x * (jax.random.bernoulli(key, 1.0 - rate, shape) / (1.0 - rate)).astype(x.dtype)


def _empty(rows: int, cell: Any, width: int) -> State:
    return {
        name: place(jnp.zeros((rows, *part.shape), part.dtype), "batch", *part.names)
        for name, part in cell.state(width).items()
    }
