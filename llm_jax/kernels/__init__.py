"""Attention, cross-entropy, grouped products, scans: a plain reference first, the fast one second, one signature each.

Letters: B batch, T queries, S keys, H heads, G key/value heads, K head size, V vocabulary, D width, N tokens,
E experts, F hidden width.
"""

ATTENTION = {
    "plain": "llm_jax.kernels.attention:plain",
    "blockwise": "llm_jax.kernels.attention:blockwise",
    "splash": "llm_jax.kernels.fused:splash",
    "cudnn": "llm_jax.kernels.fused:cudnn",
    "auto": "llm_jax.kernels.context:auto",
}
CONTEXT = {
    "ring": "llm_jax.kernels.ring:ring",
    "heads": "llm_jax.kernels.context:heads",
}
CROSS_ENTROPY = {
    "plain": "llm_jax.kernels.cross_entropy:plain",
    "chunked": "llm_jax.kernels.cross_entropy:chunked",
}
GROUPED = {
    "plain": "llm_jax.kernels.grouped_matmul:plain",
    "ragged": "llm_jax.kernels.grouped_matmul:ragged",
    "blockwise": "llm_jax.kernels.grouped_matmul:blockwise",
    "megablox": "llm_jax.kernels.grouped_matmul:megablox",
    "auto": "llm_jax.kernels.grouped_matmul:auto",
}
SSD = {
    "plain": "llm_jax.kernels.ssd:plain",
    "chunked": "llm_jax.kernels.ssd:chunked",
    "auto": "llm_jax.kernels.ssd:auto",
}
