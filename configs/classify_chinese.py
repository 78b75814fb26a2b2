"""Is a Chinese review of a book, a hotel or some goods good or bad? A small encoder from scratch.

Two to four minutes. Measured on 1,821 held-out reviews: accuracy 0.835, beside 0.852 of scikit-learn's TF-IDF of one to
three characters and logistic regression.

python -m llm_jax fetch chinese_reviews
python -m llm_jax train --config=configs/classify_chinese.py --workdir=runs/chinese
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the recipe."""
    return ConfigDict({
        "model": {
            "name": "bert", "num_layers": 1, "embed_dim": 128, "num_heads": 4, "dropout": 0.3, "pooler": False,
            "head": False,
        },
        "objective": {"name": "classification", "pooling": "mean", "dropout": 0.3, "label_smoothing": 0.1},
        "optimizer": {
            "name": "adamw", "learning_rate": 2e-3, "weight_decay": 0.01,
            "schedule": {"name": "cosine", "warmup_steps": 100},
        },
        "data": {
            "source": "published", "options": {"name": "chinese_reviews"},
            "form": {"name": "labelled", "classes": ["negative", "positive"], "long": "cut"},
            "tokenizer": {"name": "bpe", "vocab_size": 16384}, "batch_size": 64, "seq_len": 96,
        },
        "train": {"duration": "4 epochs"},
        "eval": {"epochs": 1, "batches": None},
        "checkpoint": {"every": 1000},
        "log": {"every": 100},
    })  # fmt: skip
