"""Judging models: sums over batches, merged exactly, and errors stated beside each number."""

EVALS = {
    "adversarial": "llm_jax.evals.adversarial:losses",
    "diversity": "llm_jax.evals.diversity:diversity",
    "perplexity": "llm_jax.evals.perplexity:perplexity",
}
