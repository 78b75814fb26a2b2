"""Attention and cross-entropy: a plain reference first, the memory-saving one second, one signature each.

Letters: B batch, T queries, S keys, H heads, G key/value heads, K head size, V vocabulary, D width, N tokens.
"""

ATTENTION = {
    "plain": "llm_jax.kernels.attention:plain",
    "blockwise": "llm_jax.kernels.attention:blockwise",
    "auto": "llm_jax.kernels.attention:auto",
}
CROSS_ENTROPY = {
    "plain": "llm_jax.kernels.cross_entropy:plain",
    "chunked": "llm_jax.kernels.cross_entropy:chunked",
}
