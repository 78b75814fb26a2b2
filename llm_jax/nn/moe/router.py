"""Routers of a mixture of experts: which experts a token goes to, with what weights, and the losses that spread them.

Each is a Linen module (x, real) -> Routing; a new way to choose is a new class. Everything is float32.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from llm_jax.core import checks
from llm_jax.core.table import UserError
from llm_jax.core.types import Mean
from llm_jax.nn.declare import weight
from llm_jax.nn.initial import zeros
from llm_jax.nn.linear import linear


class Load(NamedTuple):
    """What routers did, as sums over real tokens; `plus` adds layers up."""

    chosen: Float[Array, "E"]  # how often each expert was chosen
    probability: Float[Array, "E"]  # what each expert was given before the choice
    log_z: Float[Array, ""]  # of log² Σ exp(logits)
    tokens: Float[Array, ""]
    pull: Float[Array, ""]  # always 0; its gradient moves selection biases against the load, times its tokens

    def plus(self, other: "Load") -> "Load":
        """Return the load of both."""
        return jax.tree.map(jnp.add, self, other)


class Routing(NamedTuple):
    """chosen: experts of each token, E where it is padding. weights: of their outputs."""

    chosen: Int[Array, "B T k"]
    weights: Float[Array, "B T k"]
    load: Load


def idle(experts: int) -> Load:
    """The load of no layer at all."""
    none = jnp.zeros((), jnp.float32)
    return Load(jnp.zeros(experts, jnp.float32), jnp.zeros(experts, jnp.float32), none, none, none)


def losses(load: Load, *, balance: float, z: float, layers: int = 1) -> dict[str, Mean]:
    """Return what a model with this load over all its `layers` of experts adds to its loss.

    balance: weight of E · Σ_e f_e · p_e (Fedus et al. 2021, eq. 4), f the share of tokens that chose an expert (they
    sum to k) and p its mean probability, both over the tokens of all layers together, as `transformers` has it.
    z: weight of the mean log² Z (Zoph et al. 2022, ST-MoE, eq. 5).
    """
    tokens = jnp.maximum(load.tokens, 1.0)
    spread = load.chosen.size * (load.chosen * load.probability).sum() / tokens
    added = {"balance": Mean(balance * spread + layers * load.pull, tokens)}
    return added | ({"router_z": Mean(z * load.log_z, tokens)} if z else {})


class SoftmaxRouter(nn.Module):
    """The k largest of softmax(x · kernel), renormalised to sum to one or not (Mixtral, Qwen 3)."""

    num_experts: int
    top_k: int
    init: Any
    renormalize: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], real: Bool[Array, "B T"]) -> Routing:
        logits = _logits(self, x)
        probability = jax.nn.softmax(logits)
        weights, chosen = jax.lax.top_k(probability, self.top_k)
        if self.renormalize:
            weights = weights / weights.sum(-1, keepdims=True)
        return _routing(chosen, weights, probability, logits, real)


class TopKRouter(nn.Module):
    """softmax over the k largest of x · kernel + bias (gpt-oss)."""

    num_experts: int
    top_k: int
    init: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], real: Bool[Array, "B T"]) -> Routing:
        logits = _logits(self, x) + weight(self, "bias", (self.num_experts,), (None,), zeros)
        largest, chosen = jax.lax.top_k(logits, self.top_k)
        return _routing(chosen, jax.nn.softmax(largest), jax.nn.softmax(logits), logits, real)


class SigmoidRouter(nn.Module):
    """The k largest of sigmoid(x · kernel) + correction_bias within the best groups (DeepSeek-V3, §2.1.2).

    The bias chooses and does not weigh. Its only gradient is `pull` times an expert's excess over the mean load, so
    that descending it balances the experts without a loss (Wang et al. 2024). A group's score is that of its two best.
    """

    num_experts: int
    top_k: int
    init: Any
    groups: int = 1
    top_groups: int = 1
    renormalize: bool = True
    scale: float = 1.0
    pull: float = 1e-3

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], real: Bool[Array, "B T"]) -> Routing:
        logits = _logits(self, x)
        bias = weight(self, "correction_bias", (self.num_experts,), (None,), zeros).astype(jnp.float32)
        scores = jax.nn.sigmoid(logits)
        _, chosen = jax.lax.top_k(self._within_groups(scores + jax.lax.stop_gradient(bias)), self.top_k)
        weights = (jax.nn.one_hot(chosen, self.num_experts) * scores[..., None, :]).sum(-1)
        if self.renormalize:
            weights = weights / (weights.sum(-1, keepdims=True) + 1e-20)
        share = scores / scores.sum(-1, keepdims=True)
        routing = _routing(chosen, self.scale * weights, share, logits, real)
        excess = routing.load.chosen * self.num_experts / self.top_k - routing.load.tokens
        pull = self.pull * ((bias - jax.lax.stop_gradient(bias)) * excess).sum()
        return routing._replace(load=routing.load._replace(pull=pull))

    def _within_groups(self, choice: Float[Array, "B T E"]) -> Float[Array, "B T E"]:
        """-inf for experts outside of the best groups."""
        if self.top_groups == self.groups:
            return choice
        grouped = choice.reshape(*choice.shape[:-1], self.groups, -1)
        best = jax.lax.top_k(grouped, 2)[0].sum(-1)
        _, kept = jax.lax.top_k(best, self.top_groups)
        allowed = jax.nn.one_hot(kept, self.groups).sum(-2) > 0
        return jnp.where(allowed[..., None], grouped, -jnp.inf).reshape(choice.shape)


def _logits(router: Any, x: Float[Array, "B T D"]) -> Float[Array, "B T E"]:
    kernel = weight(router, "kernel", (x.shape[-1], router.num_experts), ("embed", None), router.init)
    return linear(x.astype(jnp.float32), kernel.astype(jnp.float32), out=("batch", "seq", None), exact=True)


def _routing(chosen: Array, weights: Array, probability: Array, logits: Array, real: Array) -> Routing:
    experts, real = probability.shape[-1], jnp.broadcast_to(real, probability.shape[:2])
    chosen, alive = jnp.where(real[..., None], chosen, experts), real.astype(jnp.float32)
    load = Load(
        chosen=jax.nn.one_hot(chosen, experts).sum((0, 1, 2)),
        probability=(probability * alive[..., None]).sum((0, 1)),
        log_z=(jnp.square(jax.nn.logsumexp(logits, axis=-1)) * alive).sum(),
        tokens=alive.sum(),
        pull=jnp.zeros((), jnp.float32),
    )
    return Routing(chosen, weights, load)


@dataclass(frozen=True)
class Moe:
    """The section `model.moe`: experts and the weights of what spreads the tokens over them.

    mlp_dim: hidden width of one expert. top_k: experts a token. balance, z_loss: see `losses`.
    """

    num_experts: int = 8
    top_k: int = 2
    mlp_dim: int = 1024
    balance: float = 0.01
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        section = "model.moe"
        checks.positive(section, num_experts=self.num_experts, top_k=self.top_k, mlp_dim=self.mlp_dim)
        checks.non_negative(section, balance=self.balance, z_loss=self.z_loss)
        if self.top_k > self.num_experts:
            raise UserError(
                f"{section}.top_k={self.top_k} is above {section}.num_experts={self.num_experts}; "
                f"choose at most {self.num_experts}"
            )
