"""A model with a head beside its own: a linear map of the states of a text, pooled or each by itself, to scores.

Parameters are those of the model, by the same paths, and `label_head/kernel` and `label_head/bias`: whatever reads the
model's parameters by their paths (optimizer groups, freezing, adapters, `init_from`) finds them where they were.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from llm_jax.core import checks, keys
from llm_jax.core.table import UserError, choices, nearest
from llm_jax.core.types import Batch, Declaration, Decodes, Key, Model, Outputs, Params, Prepares
from llm_jax.mesh.place import place
from llm_jax.nn import declare
from llm_jax.nn.declare import weight
from llm_jax.nn.dropout import dropout
from llm_jax.nn.initial import normal, zeros
from llm_jax.nn.linear import linear

HEAD = "label_head"
KERNEL = f"{HEAD}/kernel"


def last(real: Array) -> Array:
    """The last token of each text."""
    at = jnp.arange(real.shape[1])
    return real & (at == jnp.max(jnp.where(real, at, -1), axis=1, keepdims=True))


def first(real: Array) -> Array:
    """The first token of each text."""
    at, T = jnp.arange(real.shape[1]), real.shape[1]
    return real & (at == jnp.min(jnp.where(real, at, T), axis=1, keepdims=True))


def mean(real: Array) -> Array:
    """All tokens of each text alike."""
    return real / jnp.maximum(real.sum(1, keepdims=True), 1)


# Where no token is padding, bool [B,T] -> what each token counts in the state of its text, [B,T].
POOLER = "pooler"  # the model's own: its first token's state through a dense layer
POOLINGS: dict[str, Callable[[Array], Array]] = {"first": first, "last": last, "mean": mean}


class LabelHead(nn.Module):
    """A linear map to a score for each of C classes, or to the one of a number."""

    classes: int
    biased: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], out: tuple[str | None, ...]) -> Float[Array, "B T C"]:
        kernel = weight(self, "kernel", (x.shape[-1], self.classes), ("embed", None), normal(0.02))
        bias = weight(self, "bias", (self.classes,), (None,), zeros) if self.biased else None
        return linear(x, kernel, bias, out=out).astype(jnp.float32)


@dataclass(frozen=True)
class Headed:
    """A model whose outputs have `extras["scores"]`, float32: [B,C] of texts, [B,T,C] of tokens.

    labels: names of the classes; none of a number, which has one score. pooling: a key of `POOLINGS`, "pooler" (what
    the model itself makes of a text), "tokens" for scores of each token, or None: the last token of a model that reads
    from left to right, else the mean. dropout: of what the head reads. bias: whether it has one. A model that
    `Prepares` states prepares those that the head reads. Sizes and `stacks` that a family has beside what a `Model` has
    are those of `base`; its other methods are not: a model with a head is for labels alone.
    """

    base: Model
    labels: tuple[str, ...]
    pooling: str | None = None
    dropout: float = 0.0
    bias: bool = True

    def __post_init__(self) -> None:
        known = (*POOLINGS, POOLER, "tokens")
        if self.pooling is not None and self.pooling not in known:
            raise UserError(
                f"objective.pooling={self.pooling!r} is not known; choose one of: {choices(known)}"
                f"{nearest(self.pooling, known)}"
            )
        checks.fraction("objective", dropout=self.dropout)
        if self.pooling == POOLER and not getattr(self.base, "pooler", False):
            raise UserError(
                f"objective.pooling={POOLER!r} needs a model with a pooler, such as bert of model.pooler=True"
            )
        if not isinstance(getattr(self.base, "embed_dim", None), int):
            raise UserError(
                f"model.name={type(self.base).__name__.lower()!r} has no hidden states of a width, which a head reads"
            )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "base":
            raise AttributeError(name)
        value = getattr(self.base, name)
        if callable(value) and name != "stacks":
            raise AttributeError(name)
        return value

    def declarations(self) -> dict[str, Declaration]:
        """Every parameter by path: the model's own, and those of the head."""
        width: int = self.base.embed_dim  # type: ignore[attr-defined]  # checked above
        head = declare.declarations(self._head(), jnp.zeros((1, 1, width)), (None,) * 3)
        return {**self.base.declarations(), **declare.under(**{HEAD: head})}

    def init(self, key: Key) -> Params:
        """Initial values: the model's own, a head of normal(0.02) and no bias."""
        return {**self.base.init(key), **self.fresh(key)}

    def fresh(self, key: Key) -> Params:
        """Initial values of the head alone."""
        declared = self.declarations()
        return declare.initialize({path: declared[path] for path in declared if path.startswith(f"{HEAD}/")}, key)

    def apply(self, params: Params, batch: Batch, *, key: Key | None = None) -> Outputs:
        """Outputs of a whole batch."""
        names = ("batch", "seq" if self.pooled == "tokens" else None, None)
        out = self.base.apply(params, batch, key=key)
        states = out.hidden if self.pooled == "tokens" else self._pool(out, batch)[:, None]
        if isinstance(self.base, Prepares):
            states = self.base.prepared(params, states, names)
        states = dropout(states, self.dropout, None if key is None else keys.fold(key, HEAD))
        scores: Any = self._head().apply({"params": params[HEAD]}, states, names)
        scores = scores if self.pooled == "tokens" else scores[:, 0]
        return replace(out, extras={**out.extras, "scores": scores})

    @property
    def pooled(self) -> str:
        """The pooling, given or derived."""
        return self.pooling or ("last" if isinstance(self.base, Decodes) else "mean")

    def _head(self) -> LabelHead:
        return LabelHead(max(1, len(self.labels)), self.bias)

    def _pool(self, out: Outputs, batch: Batch) -> Array:
        """Return the state of each text, [B,D]; of a row of padding it is 0, but for that of a pooler."""
        if self.pooled == POOLER:
            return out.extras["pooled"]
        hidden = out.hidden
        tokens = batch["tokens"]
        real = jnp.asarray(batch.get("segments", jnp.ones(tokens.shape, jnp.int32))) > 0
        shares = POOLINGS[self.pooled](real).astype(hidden.dtype)
        return place((place(hidden, "batch", "seq", None) * shares[..., None]).sum(1), "batch", None)
