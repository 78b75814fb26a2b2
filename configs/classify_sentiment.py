"""Is a sentence of a film review positive or negative? An LSTM from scratch, with a report at each epoch.

40 seconds. Measured on 1,016 held-out sentences: accuracy 0.777, beside 0.810 of scikit-learn's TF-IDF and logistic
regression; 0.842 by configs/classify_tuned.py.

python -m llm_jax fetch sentiment
python -m llm_jax train --config=configs/classify_sentiment.py --workdir=runs/sentiment
python -m llm_jax classify --workdir=runs/sentiment --text="A film to see twice."
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the recipe."""
    return ConfigDict({
        "model": {"name": "lstm", "num_layers": 1, "embed_dim": 128, "dropout": 0.3},
        "objective": {"name": "classification", "pooling": "mean", "dropout": 0.3},
        "optimizer": {
            "name": "adamw", "learning_rate": 2e-3, "weight_decay": 0.01,
            "schedule": {"name": "cosine", "warmup_steps": 50},
        },
        "data": {
            "source": "published", "options": {"name": "sentiment", "where": {"kind": "movies"}},
            "form": {"name": "labelled", "classes": ["negative", "positive"], "long": "cut"},
            "tokenizer": {"name": "bpe", "vocab_size": 4096}, "batch_size": 64, "seq_len": 48,
        },
        "train": {"duration": "5 epochs"},
        "eval": {"epochs": 1, "batches": None},
        "checkpoint": {"every": 500},
        "log": {"every": 50},
    })  # fmt: skip
