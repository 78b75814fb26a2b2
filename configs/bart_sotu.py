"""A small BART that restores the State of the Union speeches: spans are hidden, and sentences out of order.

Measured with the command below, in about 5 CPU-minutes: 4.306 held-out nats a token of the texts. Norms that stand
after each part bear no greater rate: at 3e-3, after 50 steps of warm-up, it stood at 6.41 nats after 350 steps.

python -m llm_jax train --config=configs/bart_sotu.py --workdir=runs/bart
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the recipe."""
    return ConfigDict({
        "model": {"name": "bart", "num_layers": 2, "embed_dim": 128, "num_heads": 4},
        "objective": {"name": "denoising"},
        "optimizer": {
            "name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01, "b2": 0.98,
            "schedule": {"name": "wsd", "warmup_steps": 100},
        },
        "data": {
            "source": "sotu", "tokenizer": {"name": "bpe", "vocab_size": 2048}, "batch_size": 16, "seq_len": 128,
        },
        "train": {"duration": "1000 steps"},
        "checkpoint": {"every": 500},
        "log": {"every": 50},
    })  # fmt: skip
