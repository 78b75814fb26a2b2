"""Adafactor: the second moment of a matrix is kept as one row and one column, and steps are relative to the weights.

Ours and not optax's, because optax takes a root mean square over a whole leaf and factors its two largest axes: with
layers stacked that would mix them. Here every statistic is of one layer (and one expert).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from llm_jax.core.tree import map_with_path
from llm_jax.core.types import Array
from llm_jax.optim.masks import Layout, layout


class AdafactorState(NamedTuple):
    """count: steps done. row: mean of g² over a matrix's outputs, [.., in, 1]; the whole g² of what is not factored.
    col: its mean over the inputs, [.., 1, out]; a scalar 0 where nothing is factored. Axes are kept with size 1.
    """

    count: Array
    row: Any
    col: Any


def adafactor(
    decay_rate: float = 0.8,
    clip_threshold: float = 1.0,
    min_dim_to_factor: int = 128,
    relative_step: bool = True,
    eps: float = 1e-30,
    min_scale: float = 1e-3,
) -> optax.GradientTransformation:
    """Return Adafactor without momentum.

    β_t = 1 - (t+1)^-decay_rate;  R_t, C_t = the moving averages with β_t of g_t² + eps over outputs, over inputs;
    V_t = R_t C_t / mean(R_t);  û_t = g_t / sqrt(V_t);  u_t = û_t / max(1, rms(û_t) / clip_threshold), times
    max(min_scale, rms(θ_t)) with `relative_step`. Matrices whose inputs or outputs are fewer than
    `min_dim_to_factor`, and vectors, keep their whole V_t.

    The rate is the schedule's, never Adafactor's own 1/sqrt(t); torch.optim.Adafactor takes the smaller of the two,
    puts eps at the division instead of beside g², and factors everything of two axes or more.
    Shazeer and Stern 2018, arXiv:1804.04235.
    """

    def factors(path: str, leaf: Array) -> Layout | None:
        """Return the layout of a leaf that is factored, else None."""
        view = layout(path, leaf.shape)
        return view if view.is_matrix and min(view.sizes(leaf.shape)) >= min_dim_to_factor else None

    def init(params: Any) -> AdafactorState:
        def moment(path: str, leaf: Array, which: int) -> Array:
            view = factors(path, leaf)
            if view is None:
                return jnp.zeros(()) if which else jnp.zeros_like(leaf)
            return jnp.zeros_like(jax.eval_shape(lambda x: _mean(x, _axes(view, leaf)[which]), leaf))

        row, col = (map_with_path(lambda path, leaf, i=i: moment(path, leaf, i), params) for i in (0, 1))
        return AdafactorState(jnp.zeros((), jnp.int32), row, col)

    def update(updates: Any, state: AdafactorState, params: Any = None) -> tuple[Any, AdafactorState]:
        beta = 1 - (state.count + 1.0) ** -decay_rate

        def average(path: str, g: Array, old: Array, which: int) -> Array:
            view = factors(path, g)
            if view is None and which:
                return old
            square = jnp.square(g) + eps
            new = square if view is None else _mean(square, _axes(view, g)[which])
            return beta * old + (1 - beta) * new

        def direction(path: str, g: Array, p: Array, r: Array, c: Array) -> Array:
            view = factors(path, g)
            every = tuple(range(layout(path, g.shape).batch, g.ndim))
            root = jax.lax.rsqrt(r) if view is None else jax.lax.rsqrt(r / _mean(r, every)) * jax.lax.rsqrt(c)
            u = g * root
            u = u / jnp.maximum(1.0, _rms(u, every) / clip_threshold)
            return u * jnp.maximum(min_scale, _rms(p, every)) if relative_step else u

        row = map_with_path(lambda path, g, old: average(path, g, old, 0), updates, state.row)
        col = map_with_path(lambda path, g, old: average(path, g, old, 1), updates, state.col)
        u = map_with_path(direction, updates, params, row, col)
        return u, AdafactorState(optax.safe_increment(state.count), row, col)

    return optax.GradientTransformation(init, update)


def _axes(view: Layout, leaf: Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the axes to average away for the row (the outputs) and for the column (the inputs)."""
    inner = view.batch + view.inputs
    return tuple(range(inner, leaf.ndim)), tuple(range(view.batch, inner))


def _mean(x: Array, axes: tuple[int, ...]) -> Array:
    return jnp.mean(x, axis=axes, keepdims=True)


def _rms(x: Array, axes: tuple[int, ...]) -> Array:
    return jnp.sqrt(_mean(jnp.square(x), axes))
