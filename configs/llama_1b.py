"""A Llama of 1.2 B parameters in the shape of Llama 3.2 1B, on 25 B tokens of your text.

    python -m llm_jax train --config=configs/llama_1b.py --workdir=gs://BUCKET/llama_1b \
        --config.data.options.files='data/*.parquet' --config.mesh.fsdp=-1

Written for a TPU v5e-64 or larger; `describe --config=configs/llama_1b.py` gives its parameters and FLOPs.
"""

from ml_collections import ConfigDict

from llm_jax.models.decoder.llama import PRESETS


def get_config() -> ConfigDict:
    """Return the recipe."""
    return ConfigDict({
        "model": {
            "name": "llama", **PRESETS["1b"], "vocab_size": 65536, "tied": True, "rope": {"theta": 500_000.0},
        },
        "objective": {"z_loss": 1e-4, "cross_entropy": "chunked"},
        "optimizer": {
            "name": "adamw", "learning_rate": 6e-4, "weight_decay": 0.1, "b2": 0.95,
            "schedule": {"name": "wsd", "warmup_steps": 1000},
        },
        "data": {
            "source": "parquet", "options": {"files": "data/*.parquet"},
            "tokenizer": {"name": "bpe", "vocab_size": 65536}, "packing": "first_fit",
            "batch_size": 256, "seq_len": 4096,
        },
        "train": {"duration": "25B tokens"},
        "eval": {"every": 1000, "batches": 50},
        "checkpoint": {"every": 500, "keep_every": 5000},
        "mesh": {"data": 1, "fsdp": -1, "compute_dtype": "bfloat16", "remat": "full"},
    })  # fmt: skip
