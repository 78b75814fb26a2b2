"""Is a Chinese review of a book, a hotel or some goods good or bad? Characters, a small encoder from scratch.

python -m llm_jax fetch chinese_reviews
python -m llm_jax train --config=configs/classify_chinese.py --workdir=runs/chinese
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the recipe."""
    return ConfigDict({
        "model": {
            "name": "bert", "num_layers": 1, "embed_dim": 128, "num_heads": 4, "dropout": 0.1, "pooler": False,
            "head": False,
        },
        "objective": {"name": "classification", "pooling": "mean", "dropout": 0.1},
        "optimizer": {
            "name": "adamw", "learning_rate": 2e-3, "weight_decay": 0.01,
            "schedule": {"name": "cosine", "warmup_steps": 100},
        },
        "data": {
            "source": "published", "options": {"name": "chinese_reviews"},
            "form": {"name": "labelled", "classes": ["negative", "positive"], "long": "cut"},
            "tokenizer": {"name": "characters"}, "batch_size": 64, "seq_len": 64,
        },
        "train": {"duration": "3 epochs"},
        "eval": {"epochs": 1, "batches": None},
        "checkpoint": {"every": 1000},
        "log": {"every": 100},
    })  # fmt: skip
