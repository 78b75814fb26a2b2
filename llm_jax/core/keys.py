"""PRNG keys with names: every use of randomness folds in what it is for and the step, so no split is hidden."""

import zlib

import jax

from llm_jax.core.types import Array, Key


def fold(key: Key, name: str, step: Array | int = 0) -> Key:
    """Return the key for the purpose `name` at `step` (a traced or plain integer)."""
    return jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF), step)
