"""Mixture of experts (Shazeer et al. 2017): each token goes through the few experts that its router chooses.

No token is dropped: rows are sorted by expert and multiplied in groups. On a mesh each device sorts its own tokens and
holds its own experts (logical axis `expert`) and columns (`mlp`); what the devices make of a token is added up.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from llm_jax.core.table import lookup
from llm_jax.kernels import GROUPED
from llm_jax.mesh.place import free, place, spec
from llm_jax.nn.declare import weight
from llm_jax.nn.initial import zeros
from llm_jax.nn.linear import linear
from llm_jax.nn.mlp import WIDTH
from llm_jax.nn.moe.router import Load

CHOICES = ("batch", "seq", None)
Activation = Callable[[Array, Array], Array]


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
        y = dispatch(x, chosen, weights.astype(x.dtype), kernels, axes, self.activate, grouped)
        if not self.bias:
            return y
        bias = place(weight(self, "down_bias", (E, D), ("expert", "embed"), zeros), None, None)
        shares = jnp.einsum("btke,btk->bte", jax.nn.one_hot(chosen, E, dtype=x.dtype), weights.astype(x.dtype))
        return y + linear(shares, bias, out=WIDTH)


class SparseMlp(nn.Module):
    """experts(x) as `router` mixes them, plus `shared`(x) for every token; and the router's load."""

    router: Any
    experts: Any
    shared: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], real: Bool[Array, "B T"]) -> tuple[Float[Array, "B T D"], Load]:
        chosen, weights, load = self.router(x, real)
        y = self.experts(x, chosen, weights)
        return (y if self.shared is None else y + self.shared(x)), load


def dispatch(
    x: Float[Array, "B T D"],
    chosen: Int[Array, "B T k"],
    weights: Float[Array, "B T k"],
    kernels: Mapping[str, Array],
    axes: Mapping[str, tuple[str | None, ...]],
    activate: Activation,
    grouped: Callable[..., Array],
) -> Float[Array, "B T D"]:
    """Return `mixed` of every token: on a mesh, of each device's tokens through its experts, summed over devices."""
    rows = spec(*CHOICES, shape=x.shape)
    if rows is None:
        return mixed(x, chosen, weights, kernels, activate, grouped)
    inside = {n: tuple(None if a == "embed" else a for a in axes[n]) for n in kernels}
    specs: dict[str, Any] = {name: spec(*inside[name], shape=k.shape) for name, k in kernels.items()}
    by_expert, _, by_column = (_names(entry) for entry in specs["gate"])

    def local(x: Array, chosen: Array, weights: Array, kernels: Mapping[str, Array]) -> Array:
        first = jax.lax.axis_index(by_expert) * kernels["gate"].shape[0] if by_expert else 0
        y = mixed(x, chosen - first, weights, kernels, activate, grouped)
        return jax.lax.psum(y, by_expert + by_column) if by_expert + by_column else y

    island = jax.shard_map(
        local, in_specs=(rows, rows, rows, specs), out_specs=rows, axis_names=free(), check_vma=False
    )
    placed = {name: place(k, *inside[name]) for name, k in kernels.items()}
    return island(place(x, *CHOICES), place(chosen, *CHOICES), place(weights, *CHOICES), placed)


def _names(entry: Any) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else tuple(entry or ())


def mixed(
    x: Float[Array, "B T D"],
    chosen: Int[Array, "B T k"],
    weights: Float[Array, "B T k"],
    kernels: Mapping[str, Array],
    activate: Activation,
    grouped: Callable[..., Array],
) -> Float[Array, "B T D"]:
    """Return Σ_k weights[k] · expert[chosen[k]](x); a choice outside of [0, E) is nobody and gives zero."""
    k, (E, D, _) = chosen.shape[-1], kernels["gate"].shape
    choice = chosen.reshape(-1)
    choice = jnp.where((choice >= 0) & (choice < E), choice, E)
    order = jnp.argsort(choice)
    back = jnp.zeros_like(order).at[order].set(jnp.arange(order.size), unique_indices=True)
    sizes = (choice[:, None] == jnp.arange(E)).sum(0, dtype=jnp.int32)
    rows = permuted(jnp.repeat(x.reshape(-1, D), k, axis=0), order, back)
    gate, up = (grouped(rows, kernels[name], sizes) for name in ("gate", "up"))
    if "gate_bias" in kernels:
        owner = jnp.minimum(choice[order], E - 1)
        gate, up = gate + kernels["gate_bias"][owner], up + kernels["up_bias"][owner]
    y = permuted(grouped(activate(gate, up), kernels["down"], sizes), back, order)
    return jnp.einsum("nkd,nk->nd", y.reshape(-1, k, D), weights.reshape(-1, k)).reshape(x.shape)


@jax.custom_vjp
def permuted(rows: Float[Array, "N D"], order: Int[Array, "N"], back: Int[Array, "N"]) -> Float[Array, "N D"]:
    """Return rows[order]; the gradient is read through the inverse permutation `back`, not scattered."""
    return rows[order]


permuted.defvjp(lambda rows, order, back: (rows[order], back), lambda back, dy: (dy[back], None, None))
