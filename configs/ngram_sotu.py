"""A 5-gram with modified Kneser-Ney smoothing on the State of the Union speeches, counted in one pass: under a minute.

Measured with the command below: 1.783 held-out bits per byte.

python -m llm_jax train --config=configs/ngram_sotu.py --workdir=runs/ngram
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the recipe."""
    return ConfigDict({
        "model": {"name": "ngram", "order": 5},
        "data": {
            "source": "sotu", "tokenizer": {"name": "bpe", "vocab_size": 2048}, "batch_size": 16, "seq_len": 4096,
        },
        "train": {"duration": "1 epochs", "learner": "counting"},
        "eval": {"expected": {"bits_per_byte": 1.783, "tolerance": 0.01}},
        "checkpoint": {"every": 1000},
        "log": {"every": 5},
        "sample": {"prompts": ["My fellow citizens, "], "tokens": 64, "temperature": 0.6, "top_p": 0.9},
    })  # fmt: skip
