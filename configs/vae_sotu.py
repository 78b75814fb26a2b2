"""A variational autoencoder on the State of the Union speeches, in pieces of 32 tokens.

python -m llm_jax train --config=configs/vae_sotu.py --workdir=runs/vae
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the recipe."""
    return ConfigDict({
        "model": {"name": "vae", "num_layers": 2, "embed_dim": 128, "num_heads": 4, "latent_dim": 32,
                  "word_dropout": 0.3},
        "objective": {"name": "elbo", "warmup": 40_000, "free_bits": 0.1},
        "optimizer": {
            "name": "adamw", "learning_rate": 3e-3, "weight_decay": 0.1, "b2": 0.99,
            "schedule": {"name": "wsd", "warmup_steps": 50},
        },
        "data": {
            "source": "sotu", "tokenizer": {"name": "bpe", "vocab_size": 2048}, "batch_size": 64, "seq_len": 32,
        },
        "train": {"duration": "2000 steps"},
        "checkpoint": {"every": 1000},
        "log": {"every": 50},
        "sample": {"prompts": ["", "", ""], "tokens": 32},
    })  # fmt: skip
