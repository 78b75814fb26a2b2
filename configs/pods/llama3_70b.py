"""Llama 3 70B's shape on 1.4 T tokens of 8192, 2 M a step (Grattafiori et al. 2024).

    python -m llm_jax train --config=configs/pods/llama3_70b.py --workdir=gs://BUCKET/llama3_70b \
        --config.data.options.files='data/*.parquet'

Written for 256 chips of v5p; llama3_70b.json beside it is its plan, made by

    python -m llm_jax plan --config=configs/pods/llama3_70b.py --topology=v5p:4x8x8 \
        --out=configs/pods/llama3_70b.json
"""

from ml_collections import ConfigDict

from llm_jax.models.decoder.llama import PRESETS


def get_config() -> ConfigDict:
    """Return the recipe."""
    return ConfigDict({
        "model": {"name": "llama", **PRESETS["70b"], "vocab_size": 128256, "rope": {"theta": 500_000.0}},
        "objective": {"z_loss": 1e-4, "cross_entropy": "chunked"},
        "optimizer": {
            "name": "adamw", "learning_rate": 1.5e-4, "weight_decay": 0.1, "b2": 0.95,
            "schedule": {"name": "cosine", "warmup_steps": 2000},
        },
        "data": {
            "source": "parquet", "options": {"files": "data/*.parquet"},
            "tokenizer": {"name": "bpe", "vocab_size": 128256}, "packing": "first_fit",
            "batch_size": 256, "seq_len": 8192,
        },
        "train": {"duration": "1.4T tokens"},
        "eval": {"every": 1000, "batches": 50},
        "checkpoint": {"every": 250, "keep_every": 5000},
        "mesh": {"data": 1, "fsdp": -1, "compute_dtype": "bfloat16", "remat": "attention_out,mlp_out"},
    })  # fmt: skip
