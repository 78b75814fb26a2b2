"""Continuing texts with kernels that are made where they are used: `in_use` of a model gives its base's parameters."""

from typing import Any

from llm_jax.core.types import Array, Batch, Cache, Outputs, Params


def empty_cache(model: Any, batch_size: int, max_len: int) -> Cache:
    """A cache for `max_len` tokens."""
    cache: Cache = model.base.empty_cache(batch_size, max_len)
    return cache


def prefill(model: Any, params: Params, batch: Batch, cache: Cache) -> tuple[Outputs, Cache]:
    """Read whole prompts into an empty cache."""
    found: tuple[Outputs, Cache] = model.base.prefill(model.in_use(params), batch, cache)
    return found


def extend(model: Any, params: Params, tokens: Array, cache: Cache) -> tuple[Outputs, Cache]:
    """Read tokens [B,n] that follow those in the cache."""
    found: tuple[Outputs, Cache] = model.base.extend(model.in_use(params), tokens, cache)
    return found
