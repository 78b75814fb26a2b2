"""A decoder that learnt to read the beginnings of texts in both directions, and so reads its prompts."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from llm_jax.core.types import Array, Batch, Cache, Declaration, Decodes, Key, Outputs, Params


@dataclass(frozen=True)
class Prefixed:
    """`base`, whose prompts are the `prefix` of their texts: those that it continues, and the `prompt` of a batch.

    Parameters are those of `base`, and so are all attributes that a family has beside the methods of a decoder. What
    follows a prompt is read from left to right, so that the cache of `base` serves.
    """

    base: Decodes

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "base":
            raise AttributeError(name)
        return getattr(self.base, name)

    def declarations(self) -> dict[str, Declaration]:
        """Every parameter by path."""
        return self.base.declarations()

    def init(self, key: Key) -> Params:
        """Initial values."""
        return self.base.init(key)

    def apply(self, params: Params, batch: Batch, *, key: Key | None = None) -> Outputs:
        """Outputs of a whole batch."""
        read = batch | {"prefix": batch["prompt"]} if "prompt" in batch else batch
        return self.base.apply(params, read, key=key)

    def empty_cache(self, batch_size: int, max_len: int) -> Cache:
        """A cache for `max_len` tokens."""
        return self.base.empty_cache(batch_size, max_len)

    def prefill(self, params: Params, batch: Batch, cache: Cache) -> tuple[Outputs, Cache]:
        """Read whole prompts into an empty cache, each token seeing all of its own; padding is no part of them."""
        tokens = jnp.asarray(batch["tokens"])
        real = jnp.asarray(batch.get("segments", jnp.ones_like(tokens))) > 0
        return self.base.prefill(params, batch | {"prefix": real}, cache)

    def extend(self, params: Params, tokens: Array, cache: Cache) -> tuple[Outputs, Cache]:
        """Read tokens [B,n] that follow those in the cache."""
        return self.base.extend(params, tokens, cache)
