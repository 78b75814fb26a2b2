"""N-grams with given probabilities, which back off where there is none (Katz 1987): what an ARPA file holds."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from llm_jax.core import checks
from llm_jax.core.table import UserError
from llm_jax.core.types import Batch, Declaration, Key, Outputs, Params
from llm_jax.models.classical import contexts, tables
from llm_jax.nn.declare import initialize
from llm_jax.nn.initial import zeros

NEVER = -99.0 * math.log(10)  # an ARPA file's word for a probability of zero


@dataclass(frozen=True)
class Backoff:
    """The section `model` of this family; `import` makes it of an ARPA file, and nothing trains it.

    sizes: n-grams of each order, from 1 on.
    """

    vocab_size: int
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        checks.positive("model", vocab_size=self.vocab_size)
        if not self.sizes or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in self.sizes):
            raise UserError(f"model.sizes={self.sizes!r} must be the number of n-grams of each order, from 1 on")
        if self.sizes[0] > self.vocab_size:
            raise UserError(f"model.sizes={self.sizes!r} has more words than model.vocab_size={self.vocab_size}")

    @property
    def order(self) -> int:
        """Tokens of the longest n-gram."""
        return len(self.sizes)

    def declarations(self) -> dict[str, Declaration]:
        """Every parameter by path: of each order the n-grams as they are sorted, log p, and what is added below."""
        found = {}
        for order, size in enumerate(self.sizes, 1):
            words = tables.width(order, self.vocab_size)
            found[f"{order}/grams"] = Declaration((size, words), (None, None), _unused, dtype="uint32")
            found[f"{order}/log_p"] = Declaration((size,), (None,), zeros)
            if order < self.order:
                found[f"{order}/backoff"] = Declaration((size,), (None,), zeros)
        return found

    def init(self, key: Key) -> Params:
        """Tables of nothing, to which no token is possible."""
        return initialize(self.declarations(), key)

    def apply(self, params: Params, batch: Batch, *, key: Key | None = None) -> Outputs:
        """Outputs of a whole batch: `hidden` are the contexts, `head` gives their log-probabilities."""
        return self._outputs(params, contexts.contexts(self, batch))

    empty_cache = contexts.empty_cache
    prefill = contexts.prefill
    extend = contexts.extend

    def _outputs(self, params: Params, found: Array) -> Outputs:
        return Outputs(found, Partial(partial(_log_probabilities, self), jax.tree.map(jnp.asarray, params)))


def _log_probabilities(model: Backoff, params: Any, found: Int[Array, "*M K"]) -> Float[Array, "*M V"]:
    flat = found.reshape(-1, found.shape[-1])
    log_p = jnp.full((len(flat), model.vocab_size), NEVER, jnp.float32)
    for order in range(1, model.order + 1):
        part, context = params[str(order)], flat[:, flat.shape[1] + 1 - order :]
        if order > 1:
            log_p += _given(params[str(order - 1)], context, model.vocab_size)[:, None]
        first, after = tables.span(part["grams"], context, model.vocab_size)
        log_p = tables.scattered(first, after, partial(_row, part, order, model.vocab_size), log_p)
    return log_p.reshape(*found.shape[:-1], model.vocab_size)


def _given(part: Any, context: Int[Array, "M N-1"], vocab_size: int) -> Float[Array, "M"]:
    """What each context adds to the log-probabilities of the lower order: 0 where it is not in the table."""
    wanted = tables.pack(context, vocab_size)
    row = jnp.minimum(tables.first_not_below(part["grams"], wanted), len(part["grams"]) - 1)
    return jnp.where((part["grams"][row] == wanted).all(1), part["backoff"][row], 0.0)


def _row(part: Any, order: int, vocab_size: int, at: Array) -> tuple[Array, Array]:
    return tables.unpack(part["grams"][at], order, vocab_size)[..., -1], part["log_p"][at]


def _unused(key: Key, shape: tuple[int, ...]) -> Array:
    return jnp.full(shape, tables.UNUSED, jnp.uint32)


def arrays(vocab_size: int, tokens: np.ndarray, log_p: np.ndarray, backoff: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return the parameters of one order, sorted; of an order without n-grams one row that is none.

    Args:
        vocab_size: V.
        tokens: distinct n-grams [C,N]; each id is below V.
        log_p: [C], natural logarithms.
        backoff: [C], or None of the highest order.
    """
    if not len(tokens):
        grams = np.full((1, tables.width(tokens.shape[1], vocab_size)), tables.UNUSED)
        found = {"grams": grams, "log_p": np.zeros(1, np.float32)}
        return found if backoff is None else found | {"backoff": np.zeros(1, np.float32)}
    grams = np.asarray(tables.pack(jnp.asarray(tokens, jnp.int32), vocab_size))
    rows = np.lexsort(grams.T[::-1])
    found = {"grams": grams[rows], "log_p": log_p[rows].astype(np.float32)}
    return found if backoff is None else found | {"backoff": backoff[rows].astype(np.float32)}
