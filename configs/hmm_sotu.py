"""A hidden Markov model of 64 states on the quickstart's text and tokenizer: 20 steps of Baum-Welch.

Measured with the command below: 2.638 held-out bits per byte; 16 CPU-seconds.

python -m llm_jax train --config=configs/hmm_sotu.py --workdir=runs/hmm
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the recipe."""
    return ConfigDict({
        "model": {"name": "hmm", "num_states": 64, "floor": 1e-3, "every": 8},
        "objective": {"name": "causal"},
        "optimizer": {"name": "adamw", "learning_rate": 1e-3},  # unused: there is no gradient
        "data": {
            "source": "sotu", "tokenizer": {"name": "bpe", "vocab_size": 2048}, "batch_size": 128, "seq_len": 128,
        },
        "train": {"duration": "160 steps", "learner": "em"},
        "eval": {"expected": {"bits_per_byte": 2.638, "tolerance": 0.03}},
        "checkpoint": {"every": 200},
        "sample": {"prompts": ["My fellow citizens, "], "tokens": 64},
    })  # fmt: skip
