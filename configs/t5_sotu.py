"""A small T5 v1.1 that restores hidden spans of the State of the Union speeches.

Measured with the command below: 4.298 held-out nats a target token, sentinels included. Steps relative to the weights
(Adafactor, as the paper has it) matter: of 300 steps of half the batch, Adafactor at 0.05 made 4.879, at 0.02 4.980,
Muon at 0.01 5.092; 400 of AdamW at 3e-3 5.196. Embeddings of T5 begin with unit variance, and AdamW hardly moves them.
With :ul2 it learns by UL2's mixture of denoisers: 4.365 nats a target token, in 7 CPU-minutes.

python -m llm_jax train --config=configs/t5_sotu.py --workdir=runs/t5
"""

from typing import Literal

from ml_collections import ConfigDict


def get_config(objective: Literal["span", "ul2"] = "span") -> ConfigDict:
    """Return the recipe."""
    return ConfigDict({
        "model": {
            "name": "t5", "num_layers": 2, "embed_dim": 128, "num_heads": 4, "mlp_dim": 256, "gated": True,
            "tied": False,
        },
        "objective": {"name": objective},
        "optimizer": {
            "name": "adafactor", "learning_rate": 0.05, "schedule": {"name": "wsd", "warmup_steps": 50},
        },
        "data": {
            "source": "sotu", "tokenizer": {"name": "bpe", "vocab_size": 2048}, "batch_size": 32, "seq_len": 128,
        },
        "train": {"duration": "800 steps"},
        "checkpoint": {"every": 400},
        "log": {"every": 50},
    })  # fmt: skip
