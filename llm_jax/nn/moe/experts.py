"""Mixture of experts (Shazeer et al. 2017): each token goes through the few experts that its router chooses.

No token is dropped: rows are sorted by expert and multiplied in groups. On a mesh each device holds its own experts
(logical axis `expert`) and columns (`mlp`), and tokens travel to their experts.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from llm_jax.core.table import lookup
from llm_jax.kernels import GROUPED
from llm_jax.mesh.place import axes_of, free, place, spec
from llm_jax.mesh.remat import named
from llm_jax.nn.declare import weight
from llm_jax.nn.initial import zeros
from llm_jax.nn.linear import linear
from llm_jax.nn.mlp import WIDTH
from llm_jax.nn.moe.exchange import auto, owners
from llm_jax.nn.moe.router import Load

CHOICES = ("batch", "seq", None)
Activation = Callable[[Array, Array], Array]
Through = Callable[[Array, Array, Mapping[str, Array]], Array]


def swiglu(gate: Array, up: Array) -> Array:
    """silu(gate) · up (Shazeer 2020)."""
    return jax.nn.silu(gate) * up


def clamped_swiglu(gate: Array, up: Array, *, alpha: float = 1.702, limit: float = 7.0) -> Array:
    """gate · sigmoid(alpha · gate) · (up + 1), with gate at most and |up| at most `limit` (gpt-oss)."""
    gate, up = jnp.minimum(gate, limit), jnp.clip(up, -limit, limit)
    return gate * jax.nn.sigmoid(alpha * gate) * (up + 1)


class Experts(nn.Module):
    """Σ over a token's choices of weight · down(activate(gate(x), up(x))), with biases or without."""

    num_experts: int
    hidden: int
    up_init: Any
    down_init: Any
    activate: Activation = swiglu
    bias: bool = False
    kernel: str = "auto"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], chosen: Int[Array, "B T k"], weights: Float[Array, "B T k"]
    ) -> Float[Array, "B T D"]:
        E, D, F, share = self.num_experts, x.shape[-1], self.hidden, chosen.shape[-1] / self.num_experts
        inner, outer = ("expert", "embed", "mlp"), ("expert", "mlp", "embed")
        kernels = {name: weight(self, name, (E, D, F), inner, self.up_init, share=share) for name in ("gate", "up")}
        kernels["down"] = weight(self, "down", (E, F, D), outer, self.down_init, share=share)
        axes: dict[str, tuple[str, ...]] = {"gate": inner, "up": inner, "down": outer}
        if self.bias:
            for name in ("gate_bias", "up_bias"):
                kernels[name], axes[name] = weight(self, name, (E, F), ("expert", "mlp"), zeros), ("expert", "mlp")
        grouped = lookup(GROUPED, self.kernel, "model.moe.kernel")
        each = partial(by_group, activate=self.activate, grouped=grouped)
        y = place(dispatch(x, chosen, weights.astype(x.dtype), kernels, axes, each), *WIDTH)
        if not self.bias:
            return y
        bias = place(weight(self, "down_bias", (E, D), ("expert", "embed"), zeros), None, None)
        shares = jnp.einsum("btke,btk->bte", jax.nn.one_hot(chosen, E, dtype=x.dtype), weights.astype(x.dtype))
        return y + linear(shares, bias, out=WIDTH, exact=True)


class SparseMlp(nn.Module):
    """experts(x) as `router` mixes them, plus `shared`(x) for every token; and the router's load."""

    router: Any
    experts: Any
    shared: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], real: Bool[Array, "B T"]) -> tuple[Float[Array, "B T D"], Load]:
        chosen, weights, load = self.router(x, real)
        y = named(self.experts(x, chosen, weights), "mlp_out")
        return (y if self.shared is None else y + self.shared(x)), load


def dispatch(
    x: Float[Array, "B T D"],
    chosen: Int[Array, "B T k"],
    weights: Float[Array, "B T k"],
    kernels: Mapping[str, Array],
    axes: Mapping[str, tuple[str | None, ...]],
    through: Through,
) -> Float[Array, "B T D"]:
    """Return `mixed` of every token: on a mesh each device's own tokens, wherever their experts are.

    Where rows and experts are split over the same axis, tokens travel to their experts and back (`exchanged`). Where
    the devices of the experts' axis have the same rows, each adds what its own experts make of them.
    """
    rows = spec(*CHOICES, shape=x.shape)
    if rows is None:
        return mixed(x, chosen, weights, kernels, through)
    inside = {n: tuple(None if a == "embed" else a for a in axes[n]) for n in kernels}
    specs: dict[str, Any] = {name: spec(*inside[name], shape=k.shape) for name, k in kernels.items()}
    by_expert, _, by_column = (axes_of(entry) for entry in specs["gate"])
    travel = bool(by_expert) and set(by_expert) <= set(axes_of(rows[0]))
    added = by_column if travel else by_expert + by_column

    def local(x: Array, chosen: Array, weights: Array, kernels: Mapping[str, Array]) -> Array:
        if travel:
            y = exchanged(x, chosen, weights, kernels, through, by_expert)
        else:
            first = jax.lax.axis_index(by_expert) * kernels["gate"].shape[0] if by_expert else 0
            y = mixed(x, chosen - first, weights, kernels, through)
        return jax.lax.psum(y, added) if added else y

    island = jax.shard_map(
        local, in_specs=(rows, rows, rows, specs), out_specs=rows, axis_names=free(), check_vma=False
    )
    placed = {name: place(k, *inside[name]) for name, k in kernels.items()}
    return island(place(x, *CHOICES), place(chosen, *CHOICES), place(weights, *CHOICES), placed)


def mixed(
    x: Float[Array, "B T D"],
    chosen: Int[Array, "B T k"],
    weights: Float[Array, "B T k"],
    kernels: Mapping[str, Array],
    through: Through,
) -> Float[Array, "B T D"]:
    """Return Σ_k weights[k] · expert[chosen[k]](x); a choice outside of [0, E) is nobody and gives zero."""
    return _weighed(through(_repeated(x, chosen), chosen.reshape(-1), kernels), weights, x.shape)


def exchanged(
    x: Float[Array, "B T D"],
    chosen: Int[Array, "B T k"],
    weights: Float[Array, "B T k"],
    kernels: Mapping[str, Array],
    through: Through,
    axis: tuple[str, ...],
) -> Float[Array, "B T D"]:
    """Return what `mixed` returns, each device of `axis` having tokens of its own and an equal part of the experts.

    A token is sent once for each choice; these differ. At worst all tokens of all devices choose the experts of one,
    which has room for them.
    """
    devices, held, k = jax.lax.axis_size(axis), kernels["gate"].shape[0], chosen.shape[-1]
    sent = _sorted(chosen.reshape(-1), devices * held)
    everywhere = jax.lax.all_gather(sent.sizes, axis).reshape(devices, devices, held)
    counts = everywhere.sum(-1)
    most = chosen.size // k * min(k, held)
    rows = permuted(_repeated(x, chosen), sent.order, sent.back)
    there = auto(rows, counts, axis, length=devices * most, most=most)
    arrived = everywhere[:, jax.lax.axis_index(axis)].reshape(-1)
    expert = owners(arrived, devices * most)
    expert = jnp.where(expert < arrived.size, expert % held, held)
    home = auto(through(there, expert, kernels), counts.T, axis, length=chosen.size, most=most)
    return _weighed(permuted(home, sent.back, sent.order), weights, x.shape)


def by_group(
    rows: Float[Array, "N D"], expert: Int[Array, "N"], kernels: Mapping[str, Array], activate: Any, grouped: Any
) -> Float[Array, "N D"]:
    """Return expert[n](rows[n]) of every row, zero where there is no such expert."""
    E = kernels["gate"].shape[0]
    order, back, sizes, owner = _sorted(expert, E)
    rows = permuted(rows, order, back)
    gate, up = (grouped(rows, kernels[name], sizes) for name in ("gate", "up"))
    if "gate_bias" in kernels:
        owner = jnp.minimum(owner, E - 1)
        gate, up = gate + kernels["gate_bias"][owner], up + kernels["up_bias"][owner]
    return permuted(grouped(activate(gate, up), kernels["down"], sizes), back, order)


class Sorted(NamedTuple):
    """order sorts rows by expert, nobody's last, and back undoes it; sizes: rows of each; expert: of sorted rows."""

    order: Int[Array, "N"]
    back: Int[Array, "N"]
    sizes: Int[Array, "E"]
    expert: Int[Array, "N"]


def _sorted(expert: Int[Array, "N"], E: int) -> Sorted:
    expert = jnp.where((expert >= 0) & (expert < E), expert, E)
    order = jnp.argsort(expert)
    back = jnp.zeros_like(order).at[order].set(jnp.arange(order.size), unique_indices=True)
    sizes = (expert[:, None] == jnp.arange(E)).sum(0, dtype=jnp.int32)
    return Sorted(order, back, sizes, expert[order])


def _repeated(x: Float[Array, "B T D"], chosen: Int[Array, "B T k"]) -> Float[Array, "N D"]:
    return jnp.repeat(x.reshape(-1, x.shape[-1]), chosen.shape[-1], axis=0)


def _weighed(y: Float[Array, "N D"], weights: Float[Array, "B T k"], shape: tuple[int, ...]) -> Float[Array, "B T D"]:
    k = weights.shape[-1]
    return jnp.einsum("nkd,nk->nd", y.reshape(-1, k, y.shape[-1]), weights.reshape(-1, k)).reshape(shape)


@jax.custom_vjp
def permuted(rows: Float[Array, "N D"], order: Int[Array, "N"], back: Int[Array, "N"]) -> Float[Array, "N D"]:
    """Return rows[order]; the gradient is read through the inverse permutation `back`, not scattered."""
    return rows[order]


permuted.defvjp(lambda rows, order, back: (rows[order], back), lambda back, dy: (dy[back], None, None))
