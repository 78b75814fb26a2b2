"""Muon: the momentum of every matrix is replaced by its nearest orthogonal matrix; everything else goes by Adam.

Ours and not optax.contrib's, whose Nesterov term is corrected for bias where the original's is not, and whose state
carries the coefficients. Layers and experts are stacked, so that one leaf is a batch of matrices (`masks.layout`).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Float

from llm_jax.core import tree
from llm_jax.optim.masks import EMBEDDING, Layout, layout

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic with the steepest slope at 0; Jordan 2024


class MuonState(NamedTuple):
    """mu: the moving average of the gradients, of the parameters' shapes."""

    mu: Any


def muon(
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_steps: int = 5,
    consistent_rms: float | None = 0.2,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    exclude: Sequence[str] = EMBEDDING,
) -> optax.GradientTransformation:
    """Return Muon for the matrices of the hidden layers and Adam(b1, b2, eps) for the rest.

    m_t = momentum·m_{t-1} + (1-momentum)·g_t;  a = (1-momentum)·g_t + momentum·m_t with `nesterov`, else m_t;
    u_t = s · orthogonal(a), for a matrix of `in` by `out`:
    s = consistent_rms · sqrt(max(in, out)), which gives the step the size of AdamW's, so that both halves share one
    rate and decay (Liu et al. 2025, arXiv:2502.16982; torch's "match_rms_adamw" with 0.2); or, when it is None,
    s = sqrt(max(1, out/in)), the original, which wants a rate of its own, near 0.02.

    Args:
        momentum, nesterov: of the matrices' moving average.
        ns_steps: Newton-Schulz iterations.
        consistent_rms: see above.
        b1, b2, eps: Adam's, for everything else.
        exclude: regular expressions of paths that are matrices and still go by Adam: embeddings and heads.

    torch.optim.Muon computes the iteration in bfloat16 and takes kernels as [out, in]; ours are [in, out], float32.
    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
    """

    def label(path: str, leaf: Array, excluded: bool) -> str:
        return "muon" if layout(path, leaf.shape).is_matrix and not excluded else "adam"

    def labels(params: Any) -> Any:
        return tree.map_with_path(label, params, tree.mask(params, exclude))

    matrices = _orthogonalized_momentum(momentum, nesterov, ns_steps, consistent_rms)
    return optax.partition({"muon": matrices, "adam": optax.scale_by_adam(b1, b2, eps)}, labels)


def orthogonalize(x: Float[Array, "*batch n m"], steps: int = 5, eps: float = 1e-7) -> Float[Array, "*batch n m"]:
    """Return about the nearest orthogonal matrix of each, by `steps` Newton-Schulz iterations.

    X <- aX + (bA + cA²)X with A = XXᵀ takes every singular value from (0, 1] to about 0.7 … 1.2 in 5 steps. It is
    run on the shorter side, and since all factors are polynomials of the first A (they commute), wide matrices
    multiply the small n by n factors P = aI + bA + cA² alone, A <- P²A, and meet X once, at the end.
    """
    if x.shape[-2] > x.shape[-1]:
        return _transpose(orthogonalize(_transpose(x), steps, eps))
    x = x / (jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + eps)
    iterate = partial(_wide if x.shape[-1] >= 2 * x.shape[-2] else _square, steps=steps)
    if x.ndim == 2 or _explicit():
        return iterate(x)
    return jax.lax.platform_dependent(x, cpu=partial(_one_by_one, iterate), default=iterate)


def _one_by_one(iterate: Callable[[Array], Array], x: Array) -> Array:
    """Map over the matrices: XLA's batched products on a CPU take about twice as long as as many single ones."""
    return jax.lax.map(iterate, x.reshape(-1, *x.shape[-2:])).reshape(x.shape)


def _square(x: Array, steps: int) -> Array:
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = x @ _transpose(x)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def _wide(x: Array, steps: int) -> Array:
    a, b, c = COEFFICIENTS
    gram = x @ _transpose(x)
    product = identity = jnp.eye(x.shape[-2], dtype=x.dtype)
    for step in range(steps):
        factor = a * identity + b * gram + c * gram @ gram
        product = factor @ product if step else factor
        if step < steps - 1:
            gram = factor @ gram @ factor
    return product @ x


def _orthogonalized_momentum(
    momentum: float, nesterov: bool, steps: int, consistent_rms: float | None
) -> optax.GradientTransformation:
    def init(params: Any) -> MuonState:
        return MuonState(jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: MuonState, params: Any = None) -> tuple[Any, MuonState]:
        mu = jax.tree.map(lambda g, m: momentum * m + (1 - momentum) * g, updates, state.mu)
        ahead = jax.tree.map(lambda g, m: (1 - momentum) * g + momentum * m, updates, mu) if nesterov else mu

        def direction(path: str, a: Array) -> Array:
            view = layout(path, a.shape)
            inputs, outputs = view.sizes(a.shape)
            flat = _whole(a, view).reshape(*a.shape[: view.batch], inputs, outputs)
            u = _like(orthogonalize(flat, steps).reshape(a.shape), a)
            if consistent_rms is None:
                return u * max(1.0, outputs / inputs) ** 0.5
            return u * (consistent_rms * max(inputs, outputs) ** 0.5)

        return tree.map_with_path(direction, ahead), MuonState(mu)

    return optax.GradientTransformation(init, update)


def _transpose(x: Array) -> Array:
    return jnp.swapaxes(x, -1, -2)


def _whole(x: Array, view: Layout) -> Array:
    """Return `x` with every matrix whole on its device, on explicit meshes; elsewhere the compiler places it."""
    if not _explicit():
        return x
    spec = jax.typeof(x).sharding.spec
    return jax.sharding.reshard(x, PartitionSpec(*spec[: view.batch], *[None] * (x.ndim - view.batch)))


def _like(x: Array, other: Array) -> Array:
    return jax.sharding.reshard(x, jax.typeof(other).sharding.spec) if _explicit() else x


def _explicit() -> bool:
    return AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types
