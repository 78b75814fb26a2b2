"""A generator against a discriminator on the State of the Union speeches, in pieces of 16 tokens.

About four minutes on two shared cores.

Measured with the command below, in nats a held-out row: generator 5.682, discriminator 0.174; 0.04% of the fakes are
scored real. It shows how the two are trained; the discriminator wins, and the texts are no English.

python -m llm_jax train --config=configs/gan_sotu.py --workdir=runs/gan
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the recipe."""
    return ConfigDict({
        "model": {"name": "gan", "num_layers": 2, "embed_dim": 128, "num_heads": 4, "latent_dim": 32, "dropout": 0.1},
        "objective": {"name": "adversarial", "smoothing": 0.1},
        "optimizer": {
            "name": "adamw", "learning_rate": 5e-4, "b1": 0.5, "b2": 0.99, "groups": {"^discriminator/": 0.25},
        },
        "data": {
            "source": "sotu", "tokenizer": {"name": "bpe", "vocab_size": 512}, "batch_size": 64, "seq_len": 16,
        },
        "train": {"duration": "500 steps"},
        "checkpoint": {"every": 500},
        "log": {"every": 25},
        "sample": {"prompts": ["", "", ""], "tokens": 16},
    })  # fmt: skip
