"""A tiny model on the standard library's documentation: half a minute, no download, a checkpoint every few steps.

python -m llm_jax train --config=configs/debug.py --workdir=/tmp/debug
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the recipe."""
    return ConfigDict({
        "model": {"name": "llama", "num_layers": 2, "embed_dim": 64, "num_heads": 4, "tied": True},
        "objective": {"name": "causal"},
        "optimizer": {"name": "adamw", "learning_rate": 3e-3, "weight_decay": 0.1},
        "data": {"source": "stdlib_docs", "tokenizer": {"name": "bytes"}, "batch_size": 8, "seq_len": 64},
        "train": {"duration": "300 steps"},
        "eval": {"every": 100, "batches": 8},
        "checkpoint": {"every": 20},
    })  # fmt: skip
