"""Matrix products of activations with parameters in eight bits, for training (`mesh.quantize`).

Two of the three products of a layer are quantized, forward and the gradient of its input; the gradient of the kernel,
whose sum over tokens is long, stays in the compute dtype: SwitchBack (Wortsman et al. 2023, "Stable and low-precision
training for large-scale vision-language models", arXiv:2304.13013, §2.2). Scales are those of the largest value of each
token and of each channel. Gradients pass rounding as if it were not there. The products are qwix's.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

FORMATS: dict[str, tuple[Any, Any]] = {
    "int8": (jnp.int8, jnp.int8),
    "fp8": (jnp.float8_e4m3fn, jnp.float8_e5m2),
}
"""Name -> types of (activations and kernels, gradients); fp8's are those of Micikevicius et al. 2022."""


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def product(
    x: Float[Array, "B T ..."], kernel: Float[Array, "..."], contract: int, name: str
) -> Float[Array, "B T ..."]:
    """Return x [B,T,*I] · kernel [*I,*O], contracted over the `contract` dimensions I, in the format `name`."""
    last, first = _ends(x, kernel, contract)
    return _quantized(x, last, FORMATS[name][0], kernel, first, FORMATS[name][0])


def _forward(x: Array, kernel: Array, contract: int, name: str) -> tuple[Array, tuple[Array, Array]]:
    return product(x, kernel, contract, name), (x, kernel)


def _backward(contract: int, name: str, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    rows, columns = tuple(range(x.ndim - contract)), tuple(range(contract, kernel.ndim))
    outer = tuple(range(len(rows), dy.ndim))
    dx = _quantized(dy, outer, FORMATS[name][1], kernel, columns, FORMATS[name][0])
    return dx.astype(x.dtype), jax.lax.dot_general(x, dy, ((rows, rows), ((), ()))).astype(kernel.dtype)


product.defvjp(_forward, _backward)


def _ends(x: Array, kernel: Array, contract: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(range(x.ndim - contract, x.ndim)), tuple(range(contract))


def _quantized(a: Array, over_a: tuple[int, ...], type_a: Any, b: Array, over_b: tuple[int, ...], type_b: Any) -> Array:
    """Return a · b over the dimensions `over_a` and `over_b`, with one scale for each of the others' members."""
    import qwix

    def scaled(x: Array, over: tuple[int, ...], dtype: Any) -> Any:
        return qwix.quantize(x, dtype, channelwise_axes=[i for i in range(x.ndim) if i not in over])

    return qwix.dot_general(scaled(a, over_a, type_a), scaled(b, over_b, type_b), ((over_a, over_b), ((), ())))
