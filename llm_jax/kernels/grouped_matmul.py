"""Dropless grouped matrix product (Gale et al. 2023, MegaBlocks): every row is multiplied by its own expert's matrix.

Rows are sorted by expert; `sizes` says how many rows each expert has. Rows after the last group belong to nobody and
give zeros. `plain` is the reference. `blockwise` walks over blocks of rows that share an expert, so that its work is
that of the rows there are; it is for CPUs, where XLA computes `lax.ragged_dot` by multiplying all rows by all experts.
`megablox` is the Pallas kernel for TPUs.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

TILE = 128


def plain(x: Float[Array, "N D"], kernels: Float[Array, "E D F"], sizes: Int[Array, "E"]) -> Float[Array, "N F"]:
    """Return x[n] · kernels[e] for every row n of group e, by all products and a choice."""
    ends = jnp.cumsum(sizes)
    rows = jnp.arange(x.shape[0])[:, None]
    own = ((rows < ends) & (rows >= ends - sizes)).astype(x.dtype)
    return jnp.einsum("ne,nd,edf->nf", own, x, kernels)


def ragged(x: Float[Array, "N D"], kernels: Float[Array, "E D F"], sizes: Int[Array, "E"]) -> Float[Array, "N F"]:
    """Return what `plain` returns, by the compiler's own kernel."""
    return _owned(jax.lax.ragged_dot(x, kernels, sizes), sizes)


def blockwise(
    x: Float[Array, "N D"], kernels: Float[Array, "E D F"], sizes: Int[Array, "E"], *, block: int | None = None
) -> Float[Array, "N F"]:
    """Return what `plain` returns, `block` rows of one expert at a time (default: near the mean size of a group)."""
    mean = max(1, x.shape[0] // kernels.shape[0])
    return _blockwise(x, kernels, sizes, block or min(128, max(8, 1 << (mean - 1).bit_length())))


def megablox(
    x: Float[Array, "N D"], kernels: Float[Array, "E D F"], sizes: Int[Array, "E"], *, interpret: bool = False
) -> Float[Array, "N F"]:
    """Return what `plain` returns, by JAX's Pallas kernel for TPUs; `interpret` runs it on any backend.

    Rows are filled up to a multiple of the kernel's tiles with rows of nobody.
    """
    from jax.experimental.pallas.ops.tpu.megablox import gmm

    N, (_, D, F) = x.shape[0], kernels.shape
    tiles = [min(512, TILE * math.ceil(n / TILE)) for n in (N, D, F)]
    x = jnp.pad(x, ((0, -N % tiles[0]), (0, 0)))
    x = jnp.where(jnp.arange(x.shape[0])[:, None] < sizes.sum(), x, 0)
    return _owned(gmm(x, kernels, sizes, x.dtype, tuple(tiles), interpret=interpret), sizes)[:N]


def auto(x: Float[Array, "N D"], kernels: Float[Array, "E D F"], sizes: Int[Array, "E"]) -> Float[Array, "N F"]:
    """`blockwise` on CPU, `megablox` on TPU, `ragged` elsewhere."""
    ways: dict[str, Callable[..., Array]] = {"cpu": blockwise, "tpu": megablox}
    return ways.get(jax.default_backend(), ragged)(x, kernels, sizes)


class _Blocks(NamedTuple):
    """Block i is rows start(i) up to the next block's start or the group's end, of one expert."""

    last: Int[Array, "E"]  # how many blocks there are up to and with each expert's
    ends: Int[Array, "E"]  # the row after each group
    sizes: Int[Array, "E"]
    block: int

    def at(self, i: Int[Array, ""]) -> tuple[Int[Array, ""], Int[Array, ""], Int[Array, ""]]:
        """Return (expert, first row, rows) of block i."""
        expert = jnp.searchsorted(self.last, i, side="right")
        end, size = self.ends[expert], self.sizes[expert]
        start = end - size + self.block * (i - self.last[expert] + _ceil(size, self.block))
        return expert, start, jnp.minimum(self.block, end - start)


def _blocks(sizes: Int[Array, "E"], block: int) -> _Blocks:
    return _Blocks(jnp.cumsum(_ceil(sizes, block)), jnp.cumsum(sizes), sizes, block)


def _ceil(size: Array, block: int) -> Array:
    return (size + block - 1) // block


def _multiply(x: Array, kernels: Array, sizes: Array, block: int, contract: int) -> Array:
    """Rows times matrices, contracted over dimension `contract` of one matrix.

    A block's surplus rows belong to the next group: they are written wrong, and then again by their own block.
    """
    blocks, rows = _blocks(sizes, block), jnp.pad(x, ((0, block), (0, 0)))

    def one(i: Array, out: Array) -> Array:
        expert, start, _ = blocks.at(i)
        part = jax.lax.dynamic_slice_in_dim(rows, start, block)
        product = jax.lax.dot_general(part, kernels[expert], (((1,), (contract,)), ((), ())))
        return jax.lax.dynamic_update_slice_in_dim(out, product, start, axis=0)

    empty = jnp.zeros((rows.shape[0], kernels.shape[2 - contract]), x.dtype)
    return _owned(jax.lax.fori_loop(0, blocks.last[-1], one, empty)[: x.shape[0]], sizes)


def _kernel_gradient(x: Array, dy: Array, kernels: Array, sizes: Array, block: int) -> Array:
    """xᵀ · dy of every group, summed over blocks in float32."""
    blocks = _blocks(sizes, block)
    x, dy = (jnp.pad(a, ((0, block), (0, 0))) for a in (x, dy))

    def one(i: Array, total: Array) -> Array:
        expert, start, count = blocks.at(i)
        own, part = (jax.lax.dynamic_slice_in_dim(a, start, block) for a in (x, dy))
        own = jnp.where(jnp.arange(block)[:, None] < count, own, 0)
        added = jax.lax.dot_general(own, part, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)
        return total.at[expert].add(added)

    return jax.lax.fori_loop(0, blocks.last[-1], one, jnp.zeros(kernels.shape, jnp.float32)).astype(kernels.dtype)


def _owned(y: Array, sizes: Array) -> Array:
    return jnp.where(jnp.arange(y.shape[0])[:, None] < sizes.sum(), y, 0)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _blockwise(x: Array, kernels: Array, sizes: Array, block: int) -> Array:
    return _multiply(x, kernels, sizes, block, 0)


def _backward(block: int, saved: tuple[Array, Array, Array], dy: Array) -> tuple[Array, Array, None]:
    x, kernels, sizes = saved
    return _multiply(dy, kernels, sizes, block, 1), _kernel_gradient(x, dy, kernels, sizes, block), None


_blockwise.defvjp(lambda x, w, sizes, block: (_multiply(x, w, sizes, block, 0), (x, w, sizes)), _backward)
