"""Mixtral 8x7B's shape on 1 T tokens, 4 M a step (Jiang et al. 2024).

    python -m llm_jax train --config=configs/pods/mixtral_8x7b.py --workdir=gs://BUCKET/mixtral_8x7b \
        --config.data.options.files='data/*.parquet'

Written for 256 chips of v5p; mixtral_8x7b.json beside it is its plan, made by

    python -m llm_jax plan --config=configs/pods/mixtral_8x7b.py --topology=v5p:4x8x8 \
        --out=configs/pods/mixtral_8x7b.json
"""

from ml_collections import ConfigDict

from llm_jax.models.moe.mixtral import PRESETS


def get_config() -> ConfigDict:
    """Return the recipe."""
    return ConfigDict({
        "model": {"name": "mixtral", **PRESETS["8x7b"], "vocab_size": 32000},
        "objective": {"z_loss": 1e-4, "cross_entropy": "chunked"},
        "optimizer": {
            "name": "adamw", "learning_rate": 3e-4, "weight_decay": 0.1, "b2": 0.95,
            "schedule": {"name": "cosine", "warmup_steps": 2000},
        },
        "data": {
            "source": "parquet", "options": {"files": "data/*.parquet"},
            "tokenizer": {"name": "bpe", "vocab_size": 32000}, "packing": "first_fit",
            "batch_size": 1024, "seq_len": 4096,
        },
        "train": {"duration": "1T tokens"},
        "eval": {"every": 1000, "batches": 50},
        "checkpoint": {"every": 250, "keep_every": 5000},
        "mesh": {"data": 1, "fsdp": -1, "compute_dtype": "bfloat16", "remat": "attention_out,mlp_out"},
    })  # fmt: skip
