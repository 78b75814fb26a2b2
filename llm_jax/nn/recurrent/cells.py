"""Recurrent layers: one step of a cell after another along the text, with everything else done for all steps at once.

LSTM: Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000. GRU: Cho et al. 2014, in the form that
applies the reset gate after the recurrent product, as cuDNN's does. Variational dropout: Gal & Ghahramani 2016.
"""

from collections.abc import Iterator
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
GATES = ("batch", None, "act_mlp")
SIGMOIDS = (True, True, False, True)  # of an LSTM's gates: its candidate's is a tanh


def lstm(gates: Float[Array, "B 4 D"], state: State) -> tuple[Float[Array, "B D"], State]:
    """One step: input, forget, candidate and output gates before their squashing -> output and state."""
    write, keep, candidate, out = squash(gates.astype(jnp.float32), SIGMOIDS)
    cell = keep * state["cell"] + write * candidate
    hidden = (out * jnp.tanh(cell)).astype(gates.dtype)
    return hidden, {"hidden": hidden, "cell": cell}


def gru(
    inputs: Float[Array, "B 3 D"], recurrent: Float[Array, "B 3 D"], state: State
) -> tuple[Float[Array, "B D"], State]:
    """One step: reset and update gates and the candidate, of the input and of the state -> output and state."""
    x, h = inputs.astype(jnp.float32), recurrent.astype(jnp.float32)
    reset, update = squash(x[:, :2] + h[:, :2], (True, True))
    candidate = jnp.tanh(x[:, 2] + reset * h[:, 2])
    hidden = (1 - update) * candidate + update * state["hidden"].astype(jnp.float32)
    return hidden.astype(inputs.dtype), {"hidden": hidden.astype(inputs.dtype)}


def squash(gates: Float[Array, "B G D"], sigmoids: tuple[bool, ...]) -> Iterator[Float[Array, "B D"]]:
    """Return each gate's sigmoid, or its tanh, by one tanh of all: XLA's CPU backend is slow on slices of an array."""
    half = jnp.where(jnp.array(sigmoids), 0.5, 1.0)[:, None]
    all_gates = jnp.tanh(gates * half)
    return (0.5 + 0.5 * all_gates[:, i] if sigmoid else all_gates[:, i] for i, sigmoid in enumerate(sigmoids))


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
    added: bool = True  # a step knows the sum alone of what comes from the input and from the state
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
    added: bool = False
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
        drops = key is not None and self.recurrent_dropout > 0
        mask = variational(jnp.ones((x.shape[0], D), x.dtype), self.recurrent_dropout, drop[1]) if drops else None
        state = _empty(x.shape[0], cell, D) if cache is None else cache.read(layer)
        segments = None if where.segments is None else place(where.segments, "batch", None)
        outputs, state = _along(cell, inputs, kernel, late, mask, state, segments)
        outputs = place(place(outputs, "batch", None, None), "batch", "act_seq", "act_embed")
        return outputs, cache and cache.write(layer, state)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _along(cell, inputs, kernel, late, mask, state, segments):
    """Return the outputs [B,T,D] of all steps and the state after the last; padding leaves the state as it is.

    For its gradient a step keeps the state before it and its product, and the gates are computed again. The kernel's
    gradient is one product of all steps, not one of few rows in each.
    """
    return _forward(cell, inputs, kernel, late, mask, state, segments)[0]


def _forward(cell, inputs, kernel, late, mask, state, segments):
    def step(state: State, now: State) -> tuple[State, tuple[Array, Array, State]]:
        product = linear(_multiplied(now, mask, state), kernel, out=GATES, exact=True)
        after, output = _step(cell, now, now["inputs"], product, late, state)
        return after, (output, product, state)

    now = {"inputs": inputs} | ({} if segments is None else {"real": segments > 0, "begins": begins(segments)})
    now = {name: jnp.moveaxis(x, 1, 0) for name, x in now.items()}
    state = {name: value.astype(inputs.dtype) if name == "hidden" else value for name, value in state.items()}
    after, (outputs, *kept) = jax.lax.scan(step, state, now)
    return (jnp.moveaxis(outputs, 0, 1), after), (now, *kept, kernel, late, mask)


def _backward(cell, saved, d):
    now, products, states, kernel, late, mask = saved
    by_gate = jnp.moveaxis(kernel, 0, -1)  # once, as every step reads it

    def step(d_after, at):
        now, product, state, d_output = at
        _, back = jax.vjp(partial(_step, cell, now), now["inputs"], product, late, state)
        d_inputs, d_product, d_late, d_state = back((d_after, d_output))
        _, back = jax.vjp(partial(_multiplied, now), mask, state)
        d_mask, more = back(linear(d_product, by_gate, contract=2, out=("batch", None), exact=True))
        d_product = None if cell.added else d_product
        return jax.tree.map(jnp.add, d_state, more), (d_inputs, d_product, d_late, d_mask)

    steps = now, products, states, jnp.moveaxis(d[0], 1, 0)
    d_state, (d_inputs, d_products, *sums) = jax.lax.scan(step, d[1], steps, reverse=True)
    hidden = jax.vmap(_multiplied, in_axes=(0, None, 0))(now, mask, states)
    _, back = jax.vjp(lambda kernel: linear(hidden, kernel, out=(None, *GATES), exact=True), kernel)
    (d_kernel,) = back(d_inputs if cell.added else d_products)
    d_late, d_mask = jax.tree.map(lambda x: x.sum(axis=0), sums)
    return jnp.moveaxis(d_inputs, 0, 1), d_kernel, d_late, d_mask, d_state, None


_along.defvjp(_forward, _backward)


def _multiplied(now: State, mask: Array | None, state: State) -> Array:
    """Return what a step multiplies by the kernel [B,D]."""
    hidden = place(_begun(now, state)["hidden"], "batch", None)
    return hidden if mask is None else (hidden * mask).astype(hidden.dtype)


def _step(cell: Any, now: State, inputs: Array, product: Array, late: Any, state: State) -> tuple[State, Array]:
    before = _begun(now, state)
    output, after = cell.step(inputs, product, late, before)
    if "real" in now:
        after = {name: jnp.where(now["real"][:, None], value, before[name]) for name, value in after.items()}
    return after, output


def _begun(now: State, state: State) -> State:
    """Return the state at a step: nothing where a text begins."""
    if "begins" not in now:
        return state
    return {name: jnp.where(now["begins"][:, None], 0, value) for name, value in state.items()}


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
