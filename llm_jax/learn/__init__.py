"""Learners: how a state changes by a batch. Gradient rules compose: accumulate and the like wrap one another.

Letters: W workers that learn apart for a while, P fragments of the layers.
"""

# How a state changes by a batch: (model, objective, optimizer, microbatches=…) -> Learner. One that has arguments
# `batch_size`, `clip_norm`, `noise` or `expected` (rows on average) is given these, too.
LEARNERS = {
    "carried": "llm_jax.learn.carried:carried",
    "counting": "llm_jax.learn.counting:counting",
    "em": "llm_jax.learn.em:em",
    "gradient": "llm_jax.learn.gradient:descent",
    "private": "llm_jax.learn.private:private",
}

# What brings workers together again: (learning_rate, momentum) -> an optax transformation of the outer gradient.
OUTER = {
    "average": "llm_jax.learn.outer:average",
    "diloco": "llm_jax.learn.outer:diloco",
    "adam": "llm_jax.learn.outer:adam",
}
