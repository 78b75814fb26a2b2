"""N-gram language models: interpolated modified Kneser-Ney (Chen & Goodman 1999, §3) or add-k (Lidstone 1920).

Parameters are the distinct n-grams of the highest order and their counts; the tables of the lower orders follow from
them (`ready`). A context that reaches over the beginning of its row or text is filled with an id of its own, so that
rows should be long: what is cut off at the beginning of a row is not seen.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from llm_jax.core import checks
from llm_jax.core.table import UserError
from llm_jax.core.targets import targets_and_weights
from llm_jax.core.types import Batch, Declaration, Key, Outputs, Params
from llm_jax.models.classical import contexts, tables
from llm_jax.models.classical.tables import Table
from llm_jax.nn.initial import zeros

SMOOTHING = ("kneser_ney", "add_k")


@dataclass(frozen=True)
class Ngram:
    """The section `model` of this family.

    order: tokens of an n-gram; 0 for all ids equally likely. smoothing: kneser_ney, or add_k with `add` for each id.
    min_count: n-grams of the highest order that were counted less often are left to the lower ones (at most 3).
    capacity: distinct n-grams that a table has room for. buffer: n-grams that are collected before they are sorted in.
    """

    vocab_size: int
    order: int = 5
    smoothing: str = "kneser_ney"
    add: float = 0.1
    min_count: int = 1
    capacity: int = 1 << 22
    buffer: int = 1 << 20

    def __post_init__(self) -> None:
        checks.positive(
            "model", vocab_size=self.vocab_size, capacity=self.capacity, buffer=self.buffer, min_count=self.min_count,
            add=self.add,
        )  # fmt: skip
        checks.non_negative("model", order=self.order)
        if self.order > 7:
            raise UserError(f"model.order={self.order} must be at most 7")
        if self.min_count > 3:
            raise UserError(f"model.min_count={self.min_count} must be at most 3")
        if self.smoothing not in SMOOTHING:
            raise UserError(f"model.smoothing={self.smoothing!r} must be one of: {', '.join(SMOOTHING)}")

    def declarations(self) -> dict[str, Declaration]:
        """Every parameter by path: the table, what waits to be sorted into it, and how much of either there is."""
        words = tables.width(self.order, self.vocab_size)
        rows, counts = (None, None), (None,)
        return {
            "grams": Declaration((self.capacity, words), rows, _unused, dtype="uint32"),
            "counts": Declaration((self.capacity,), counts, zeros, dtype="int32"),
            "waiting": Declaration((self.buffer, words), rows, _unused, dtype="uint32"),
            "distinct": Declaration((), (), zeros, dtype="int32"),
            "filled": Declaration((), (), zeros, dtype="int32"),
        }

    def init(self, key: Key) -> Params:
        """Tables of nothing."""
        empty = tables.empty(self.capacity, tables.width(self.order, self.vocab_size))
        waiting = jnp.full((self.buffer, empty.grams.shape[1]), tables.UNUSED, jnp.uint32)
        return {**empty._asdict(), "waiting": waiting, "filled": jnp.int32(0)}

    def count(self, params: Params, batch: Batch) -> Params:
        """Return the parameters with the n-grams of a batch counted: of each target of any weight, once.

        Raises:
            UserError: a batch has more tokens than `buffer`.
        """
        if self.order == 0:
            return params
        targets, weights = targets_and_weights(batch)
        if targets.size > self.buffer:
            raise UserError(
                f"model.buffer={self.buffer} has no room for the {targets.size} tokens of a batch; raise it to a few "
                "times as many"
            )
        known = contexts.contexts(self, batch)
        new = tables.pack(jnp.concatenate([known, targets[..., None]], axis=-1)[..., -self.order :], self.vocab_size)
        new = jnp.where((weights > 0)[..., None], new, tables.UNUSED).reshape(targets.size, -1)
        full = params["filled"] + targets.size > self.buffer
        params = jax.lax.cond(full, self._sorted, lambda p: p, {name: params[name] for name in self.declarations()})
        waiting = jax.lax.dynamic_update_slice(params["waiting"], new, (params["filled"], 0))
        return params | {"waiting": waiting, "filled": params["filled"] + targets.size}

    def ready(self, params: Params) -> Params:
        """Return the parameters with the tables of all orders: what predictions are made from."""
        if self.order == 0 or "orders" in params:
            return params
        params = self._sorted({name: params[name] for name in self.declarations()})
        table = Table(params["grams"], params["counts"], params["distinct"])
        if self.smoothing == "add_k":
            return params | {"orders": {str(self.order): _summed(table, self.order, self)}}
        orders = {}
        for order in range(self.order, 0, -1):
            if order < self.order:
                room = min(self.capacity, (self.vocab_size + 1) ** order)
                table = tables.shorter(table, order + 1, self.vocab_size, room)
            orders[str(order)] = _summed(table, order, self)
        return params | {"orders": orders}

    def apply(self, params: Params, batch: Batch, *, key: Key | None = None) -> Outputs:
        """Outputs of a whole batch: `hidden` are the contexts, `head` gives their normalised log-probabilities."""
        return self._outputs(params, contexts.contexts(self, batch))

    empty_cache = contexts.empty_cache
    prefill = contexts.prefill
    extend = contexts.extend

    def _outputs(self, params: Params, found: Array) -> Outputs:
        ready = self.ready(params)
        orders: Any = ready.get("orders", {})
        return Outputs(found, Partial(partial(_log_probabilities, self), orders))

    def _sorted(self, params: Params) -> Params:
        """Sort what waits into the table."""
        grams = jnp.concatenate([params["grams"], params["waiting"]])
        ones = (params["waiting"][:, 0] != tables.UNUSED).astype(jnp.int32)
        table = tables.counted(grams, jnp.concatenate([params["counts"], ones]), self.capacity)
        lost = jnp.maximum(table.distinct, params["distinct"])  # what once found no room stays known
        empty = jnp.full_like(params["waiting"], tables.UNUSED)
        return {**table._asdict(), "distinct": lost, "waiting": empty, "filled": jnp.zeros_like(params["filled"])}


def _unused(key: Key, shape: tuple[int, ...]) -> Array:
    return jnp.full(shape, tables.UNUSED, jnp.uint32)


def _summed(table: Table, order: int, model: Ngram) -> dict[str, Array]:
    """What is looked up of one order: words, counts, and running sums over the rows of counts and of n-grams by count.

    The discounts are those of Chen & Goodman 1999, eq. 17; one that its counts do not determine is that of the others
    or 0.75.
    """
    last = tables.unpack(table.grams, order, model.vocab_size)[:, -1]
    by_count = jnp.stack([table.counts == 1, table.counts == 2, table.counts > 2], axis=1).astype(jnp.int32)
    sums = jnp.cumsum(jnp.concatenate([table.counts[:, None], by_count], axis=1), axis=0)
    sums = jnp.concatenate([jnp.zeros((1, 4), jnp.int32), sums])
    n = [jnp.sum(table.counts == c).astype(jnp.float32) for c in range(1, 5)]
    y = n[0] / jnp.maximum(n[0] + 2 * n[1], 1)
    wanted = [c - (c + 1) * y * n[c] / jnp.maximum(n[c - 1], 1) for c in (1, 2, 3)]
    discounts = [jnp.where((n[c - 1] > 0) & (d > 0) & (d < c), d, 0.75) for c, d in zip((1, 2, 3), wanted, strict=True)]
    if order == model.order:  # what is left out gives all that it has to the lower orders
        discounts = [jnp.float32(c) if c < model.min_count else d for c, d in zip((1, 2, 3), discounts, strict=True)]
    return {"grams": table.grams, "last": last, "counts": table.counts, "sums": sums, "discounts": jnp.stack(discounts)}


def _log_probabilities(model: Ngram, orders: dict[str, Any], found: Int[Array, "*M N-1"]) -> Float[Array, "*M V"]:
    flat = found.reshape(-1, found.shape[-1])
    p = jnp.full((flat.shape[0], model.vocab_size), 1 / model.vocab_size, jnp.float32)
    if model.smoothing == "add_k" and model.order:
        p = _added(model, orders[str(model.order)], flat)
    elif model.order:
        for order in range(1, model.order + 1):
            p = _interpolated(model, orders[str(order)], order, flat, p)
    return jnp.log(p).reshape(*found.shape[:-1], model.vocab_size)


def _interpolated(
    model: Ngram, part: dict[str, Array], order: int, found: Int[Array, "M N-1"], lower: Float[Array, "M V"]
) -> Float[Array, "M V"]:
    """Return the probabilities of one order more (Chen & Goodman 1999, eq. 16)."""
    first, after = _rows(model, part, order, found)
    sums = part["sums"][after] - part["sums"][first]
    total, kinds = sums[:, 0].astype(jnp.float32), sums[:, 1:].astype(jnp.float32)
    discounts = jnp.concatenate([jnp.zeros(1), part["discounts"]])

    def kept(counts: Array) -> Array:
        return jnp.maximum(counts - discounts[jnp.minimum(counts, 3)], 0.0)

    own = _scattered(part, first, after, kept, jnp.zeros_like(lower))
    backoff = (kinds @ part["discounts"])[:, None]
    return jnp.where(total[:, None] > 0, (own + backoff * lower) / jnp.maximum(total, 1)[:, None], lower)


def _added(model: Ngram, part: dict[str, Array], found: Int[Array, "M N-1"]) -> Float[Array, "M V"]:
    first, after = _rows(model, part, model.order, found)
    total = (part["sums"][after] - part["sums"][first])[:, :1]
    own = _scattered(part, first, after, lambda c: c.astype(jnp.float32), jnp.zeros((len(found), model.vocab_size)))
    return (own + model.add) / (total + model.add * model.vocab_size)


def _rows(model: Ngram, part: dict[str, Array], order: int, found: Array) -> tuple[Array, Array]:
    return tables.span(part["grams"], found[:, found.shape[1] + 1 - order :], model.vocab_size)


def _scattered(part: dict[str, Array], first: Array, after: Array, value: Any, into: Array) -> Array:
    """Put the value of each row of each context at its last token."""
    return tables.scattered(first, after, lambda at: (part["last"][at], value(part["counts"][at])), into)
