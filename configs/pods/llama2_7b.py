"""Llama 2 7B's shape on 2 T tokens, 4 M a step (Touvron et al. 2023).

    python -m llm_jax train --config=configs/pods/llama2_7b.py --workdir=gs://BUCKET/llama2_7b \
        --config.data.options.files='data/*.parquet'

Written for one v5e-256; llama2_7b.json beside it is its plan, made by

    python -m llm_jax plan --config=configs/pods/llama2_7b.py --topology=v5e:16x16 \
        --out=configs/pods/llama2_7b.json
"""

from ml_collections import ConfigDict

from llm_jax.models.decoder.llama import PRESETS


def get_config() -> ConfigDict:
    """Return the recipe."""
    return ConfigDict({
        "model": {"name": "llama", **PRESETS["7b"], "vocab_size": 32000},
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
        "train": {"duration": "2T tokens"},
        "eval": {"every": 1000, "batches": 50},
        "checkpoint": {"every": 250, "keep_every": 5000},
        "mesh": {"data": 1, "fsdp": -1, "compute_dtype": "bfloat16", "remat": "full"},
    })  # fmt: skip
