"""nanoGPT's CPU cell on the State of the Union speeches: characters, 4 layers, 128 wide, 64 characters of context.

python -m llm_jax train --config=configs/char_sotu.py --workdir=runs/char_sotu
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the recipe."""
    return ConfigDict({
        "model": {"name": "gpt2", "num_layers": 4, "embed_dim": 128, "num_heads": 4},
        "optimizer": {
            "name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.1, "b2": 0.99,
            "schedule": {"name": "cosine", "warmup_steps": 100},
        },
        "data": {"source": "sotu", "tokenizer": {"name": "characters"}, "batch_size": 12, "seq_len": 64},
        "train": {"duration": "2000 steps"},
        "eval": {"every": 500, "batches": 40},
        "checkpoint": {"every": 1000},
        "sample": {"prompts": ["My fellow citizens, "], "tokens": 44},
    })  # fmt: skip
