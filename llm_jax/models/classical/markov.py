"""A step of a Markov chain in log space."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def advance(prior: Float[Array, "... S"], table: Float[Array, "S X"]) -> Float[Array, "... X"]:
    """Return log Σ_s exp(prior[s] + table[s, x])."""
    largest = jax.lax.stop_gradient(prior.max(-1, keepdims=True))
    return jnp.log(jnp.exp(prior - largest) @ jnp.exp(table)) + largest
