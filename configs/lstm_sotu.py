"""A model of LSTM layers on the State of the Union speeches, its state carried from batch to batch.

Measured with the command below: 2.200 held-out bits per byte, the state carried through the held-out text, too.

python -m llm_jax train --config=configs/lstm_sotu.py --workdir=runs/lstm
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the recipe."""
    return ConfigDict({
        "model": {"name": "lstm", "num_layers": 2, "embed_dim": 256, "dropout": 0.1},
        "objective": {"name": "causal"},
        "optimizer": {
            "name": "adamw", "learning_rate": 4e-3, "weight_decay": 0.01, "b2": 0.99,
            "schedule": {"name": "wsd", "warmup_steps": 50},
        },
        "data": {
            "source": "sotu", "tokenizer": {"name": "bpe", "vocab_size": 2048}, "packing": "contiguous",
            "batch_size": 16, "seq_len": 128,
        },
        "train": {"duration": "600 steps", "learner": "carried"},
        "eval": {"expected": {"bits_per_byte": 2.200, "tolerance": 0.03}},
        "checkpoint": {"every": 500},
        "log": {"every": 50},
        "sample": {"prompts": ["My fellow citizens, "], "tokens": 64, "temperature": 0.6, "top_p": 0.9},
    })  # fmt: skip
