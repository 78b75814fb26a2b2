"""Who maintains a package, how large is it? The words of a passage that answer, by a small encoder from scratch.

The passages are the control fields of Debian's packages in any order, the questions are written in three ways each; a
twentieth has no answer. Needs Debian or Ubuntu.

Ten minutes. Measured on 1,527 held-out packages by `python -m benchmarks.answers`: exact match 68.8 and F1 71.0. It is
a task for rules: scikit-learn's logistic regression that tells which field is asked for, and then takes its line, is
right every time. What this model gets wrong are addresses and versions of many tokens.

python -m llm_jax fetch debian_questions
python -m llm_jax train --config=configs/answer_spans.py --workdir=runs/answers
python -m llm_jax ask --workdir=runs/answers --passage=FILE --question="Who maintains zsh?"
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the recipe."""
    return ConfigDict({
        "model": {
            "name": "bert", "num_layers": 2, "embed_dim": 128, "num_heads": 4, "dropout": 0.1, "pooler": False,
            "head": False,
        },
        "objective": {"name": "spans", "dropout": 0.1},
        "optimizer": {
            "name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01,
            "schedule": {"name": "cosine", "warmup_steps": 100},
        },
        "data": {
            "source": "published", "options": {"name": "debian_questions"},
            "form": {"name": "passages", "long": "drop"}, "tokenizer": {"name": "bpe", "vocab_size": 4096},
            "batch_size": 32, "seq_len": 224,
        },
        "train": {"duration": "3 epochs"},
        "eval": {"epochs": 1, "batches": None},
        "checkpoint": {"every": 500},
        "log": {"every": 50},
    })  # fmt: skip
