"""Llama 3.1 8B's shape on 2 T tokens of 8192, 4 M a step (Grattafiori et al. 2024).

    python -m llm_jax train --config=configs/pods/llama3_8b.py --workdir=gs://BUCKET/llama3_8b \
        --config.data.options.files='data/*.parquet'

Written for one v6e-256; llama3_8b.json beside it is its plan, made by

    python -m llm_jax plan --config=configs/pods/llama3_8b.py --topology=v6e:16x16 \
        --out=configs/pods/llama3_8b.json
"""

from ml_collections import ConfigDict

from llm_jax.models.decoder.llama import PRESETS


def get_config() -> ConfigDict:
    """Return the recipe."""
    return ConfigDict({
        "model": {"name": "llama", **PRESETS["8b"], "vocab_size": 128256},
        "objective": {"z_loss": 1e-4, "cross_entropy": "chunked"},
        "optimizer": {
            "name": "adamw", "learning_rate": 3e-4, "weight_decay": 0.1, "b2": 0.95,
            "schedule": {"name": "cosine", "warmup_steps": 2000},
        },
        "data": {
            "source": "parquet", "options": {"files": "data/*.parquet"},
            "tokenizer": {"name": "bpe", "vocab_size": 128256}, "packing": "first_fit",
            "batch_size": 512, "seq_len": 8192,
        },
        "train": {"duration": "2T tokens"},
        "eval": {"every": 1000, "batches": 50},
        "checkpoint": {"every": 250, "keep_every": 5000},
        "mesh": {"data": 1, "fsdp": -1, "compute_dtype": "bfloat16", "remat": "attention_out,mlp_out"},
    })  # fmt: skip
