"""What a batch asks for: its targets and their weights, given or by default."""

import jax.numpy as jnp

from llm_jax.core.types import Array, Batch


def targets_and_weights(batch: Batch) -> tuple[Array, Array]:
    """Return what each position predicts, int32 [B,T], and its weight, float32 [B,T].

    A batch without targets predicts its own next token, where that is of the same text; padding has no weight.
    """
    tokens = jnp.asarray(batch["tokens"], jnp.int32)
    segments = jnp.asarray(batch.get("segments", jnp.ones_like(tokens)))
    weights = jnp.asarray(batch.get("weights", 1), jnp.float32) * (segments > 0)
    if "targets" in batch:
        return jnp.asarray(batch["targets"], jnp.int32), weights
    following = jnp.pad(segments[:, 1:], ((0, 0), (0, 1)))  # 0 after the last: it predicts nothing
    return jnp.roll(tokens, -1, axis=1), weights * (following == segments)


def row_weights(weights: Array) -> Array:
    """Return the mean weight of those of a row that are not 0, float32 [B]: of what is charged once a row."""
    return weights.sum(1) / jnp.maximum((weights > 0).sum(1), 1)
