"""A Llama of 150 M parameters on 3 B tokens of your text: Chinchilla's 20 tokens a parameter.

    python -m llm_jax train --config=configs/llama_150m.py --workdir=runs/llama_150m \
        --config.data.options.files='data/*.jsonl'
"""

from ml_collections import ConfigDict

from llm_jax.models.decoder.llama import PRESETS


def get_config() -> ConfigDict:
    """Return the recipe."""
    return ConfigDict({
        "model": {"name": "llama", **PRESETS["150m"], "vocab_size": 32768, "tied": True},
        "objective": {"z_loss": 1e-4},
        "optimizer": {
            "name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.1, "b2": 0.95,
            "schedule": {"name": "wsd", "warmup_steps": 500},
        },
        "data": {
            "source": "jsonl", "options": {"files": "data/*.jsonl"},
            "tokenizer": {"name": "bpe", "vocab_size": 32768}, "packing": "first_fit",
            "batch_size": 128, "seq_len": 2048,
        },
        "train": {"duration": "3B tokens"},
        "eval": {"every": 500, "batches": 50},
        "checkpoint": {"every": 500, "keep_every": 5000},
        "mesh": {"data": 1, "fsdp": -1, "compute_dtype": "bfloat16", "remat": "dots"},
    })  # fmt: skip
