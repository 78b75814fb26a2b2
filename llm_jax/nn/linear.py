"""Matrix products of activations with parameters, and look-ups in embedding tables."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from llm_jax.kernels import quantized
from llm_jax.mesh import plan
from llm_jax.mesh.place import explicit, place, spread

FEW = 8  # rows: one token each of a small batch


def linear(
    x: Float[Array, "B T ..."],
    kernel: Float[Array, "..."],
    bias: Float[Array, "..."] | None = None,
    *,
    contract: int = 1,
    out: tuple[str | None, ...],
    exact: bool = False,
) -> Float[Array, "B T ..."]:
    """Return x [B,T,*I] · kernel [*I,*O] + bias [*O], contracted over the `contract` dimensions I.

    On one device the operands are flattened to two dimensions: XLA's CPU backend otherwise copies transposed
    activations for the kernel's gradient. On a mesh the dimensions stay apart, so that each keeps its sharding.
    `out` are the logical names of the result. A plan may have the products quantized that need not be `exact`.
    """
    active = plan.current()
    if active.quantize and not exact:
        y = place(quantized.product(x, kernel, contract, active.quantize), *out)
    elif active.mesh is None:
        inner = math.prod(kernel.shape[:contract])
        y = product(x.reshape(-1, inner), kernel.reshape(inner, -1))
        y = y.reshape(*x.shape[: x.ndim - contract], *kernel.shape[contract:])
    else:
        x = whole_texts(x) if contract == 1 and out[1] == "seq" else x
        last = tuple(range(x.ndim - contract, x.ndim))
        dims = ((last, tuple(range(contract))), ((), ()))
        shape = (*x.shape[: x.ndim - contract], *kernel.shape[contract:])
        names = tuple("seq" if name == "act_seq" else name for name in out)
        y = jax.lax.dot_general(x, kernel, dims, out_sharding=explicit(*names, shape=shape))
        y = place(place(y, *names), *out)  # summed and split in two steps: in turn the gradient is gathered, then used
    return y if bias is None else y + bias


def whole_texts(x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """Return what a layer is given, gathered where `act_seq` splits it finer than `seq`.

    Both are said: else the compiler would gather it as it was before it was rounded.
    """
    return place(place(x, "batch", "act_seq", None), "batch", "seq", None)


def embed(table: Float[Array, "V D"], tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """Return the rows of `table`; on a mesh the table is first made whole along the vocabulary."""
    whole = spread(table, (None, None), (None, "embed"))
    names = ("batch", "act_seq", "act_embed")
    sharding = explicit(*names, shape=(*tokens.shape, table.shape[-1]))
    rows = whole[tokens] if sharding is None else whole.at[tokens].get(out_sharding=sharding)
    return place(rows, *names)


def logits(hidden: Float[Array, "*N D"], table: Float[Array, "V D"]) -> Float[Array, "*N V"]:
    """Return float32 hidden · tableᵀ, the vocabulary sharded as `act_vocab`."""
    names = (("batch", "seq")[: hidden.ndim - 1] if hidden.ndim == 3 else (None,) * (hidden.ndim - 1)) + ("act_vocab",)
    if plan.current().mesh is None:
        flat = hidden.reshape(-1, hidden.shape[-1])
        scores = unembed(flat, table) if flat.dtype == jnp.float32 else _widened(flat, table)
        return scores.reshape(*hidden.shape[:-1], table.shape[0])
    hidden = whole_texts(hidden) if hidden.ndim == 3 else hidden
    dims = (((hidden.ndim - 1,), (1,)), ((), ()))
    sharding = explicit(*names, shape=(*hidden.shape[:-1], table.shape[0]))
    product = jax.lax.dot_general(hidden, table, dims, preferred_element_type=jnp.float32, out_sharding=sharding)
    return place(product, *names)


def _widened(x: Float[Array, "N D"], table: Float[Array, "V D"]) -> Float[Array, "N V"]:
    return jnp.dot(x, table.T, preferred_element_type=jnp.float32)


@jax.custom_vjp
def product(x: Float[Array, "N D"], kernel: Float[Array, "D F"]) -> Float[Array, "N F"]:
    """Return x · kernel, with the kernel's gradient by `kernel_gradient`."""
    return x @ kernel


@jax.custom_vjp
def unembed(x: Float[Array, "N D"], table: Float[Array, "V D"]) -> Float[Array, "N V"]:
    """Return x · tableᵀ, with the table's gradient by `kernel_gradient`."""
    return _scores(x, table)


def _scores(x: Float[Array, "N D"], table: Float[Array, "V D"]) -> Float[Array, "N V"]:
    """Return x · tableᵀ; few rows as table · xᵀ, fenced off, as CPU fuses x · tableᵀ into a loop that reads slowly."""
    if x.shape[0] > FEW:
        return x @ table.T
    return jax.lax.optimization_barrier(jax.lax.dot_general(table, x, (((1,), (1,)), ((), ())))).T


def kernel_gradient(x: Float[Array, "N D"], dy: Float[Array, "N F"]) -> Float[Array, "D F"]:
    """Return xᵀ · dy. On CPU Eigen packs xᵀ column by column, which rows of a multiple of 8 KiB slow down twofold."""
    D, F = x.shape[1], dy.shape[1]
    contract_rows = (((0,), (0,)), ((), ()))
    if D > F and (D % 2048 == 0 or F <= 128) and jax.default_backend() == "cpu":
        return jax.lax.optimization_barrier(jax.lax.dot_general(dy, x, contract_rows)).T
    return jax.lax.dot_general(x, dy, contract_rows)


product.defvjp(
    lambda x, kernel: (x @ kernel, (x, kernel)),
    lambda saved, dy: (dy @ saved[1].T, kernel_gradient(saved[0], dy)),
)
unembed.defvjp(
    lambda x, table: (_scores(x, table), (x, table)),
    lambda saved, dy: (dy @ saved[1], kernel_gradient(dy, saved[0])),
)
