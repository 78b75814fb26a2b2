"""Gemma 2 9B's shape on 2 T tokens of 8192, 4 M a step (Gemma Team 2024).

    python -m llm_jax train --config=configs/pods/gemma2_9b.py --workdir=gs://BUCKET/gemma2_9b \
        --config.data.options.files='data/*.parquet'

Written for one v6e-256; gemma2_9b.json beside it is its plan, made by

    python -m llm_jax plan --config=configs/pods/gemma2_9b.py --topology=v6e:16x16 \
        --out=configs/pods/gemma2_9b.json
"""

from ml_collections import ConfigDict

from llm_jax.models.gemma.gemma2 import PRESETS


def get_config() -> ConfigDict:
    """Return the recipe."""
    return ConfigDict({
        "model": {"name": "gemma2", **PRESETS["9b"], "vocab_size": 256000},
        "objective": {"z_loss": 1e-4, "cross_entropy": "chunked"},
        "optimizer": {
            "name": "adamw", "learning_rate": 3e-4, "weight_decay": 0.1, "b2": 0.95,
            "schedule": {"name": "cosine", "warmup_steps": 2000},
        },
        "data": {
            "source": "parquet", "options": {"files": "data/*.parquet"},
            "tokenizer": {"name": "bpe", "vocab_size": 256000}, "packing": "first_fit",
            "batch_size": 512, "seq_len": 8192,
        },
        "train": {"duration": "2T tokens"},
        "eval": {"every": 1000, "batches": 50},
        "checkpoint": {"every": 250, "keep_every": 5000},
        "mesh": {"data": 1, "fsdp": -1, "compute_dtype": "bfloat16", "remat": "full"},
    })  # fmt: skip
