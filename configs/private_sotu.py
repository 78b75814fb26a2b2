"""A small Llama learns the speeches under differential privacy (DP-SGD), from a start on public text.

As Li et al. 2022 (arXiv:2110.05679) have it: what is public teaches the language, large Poisson batches the rest. The
public text is Python's documentation, which every Python brings along; the tokenizer is trained on that, too.

python -m llm_jax train --config=configs/private_sotu.py:public --workdir=runs/private_public
python -m llm_jax train --config=configs/private_sotu.py --workdir=runs/private_sotu

Measured with the second command, 165 CPU-seconds after 95 for the start: epsilon 2.386 at delta 1e-6 for one row of 128
tokens, and 2.676 held-out bits per byte, where the start alone is at 3.401. What the same steps teach from nothing
(:scratch), and without privacy (:open), is in benchmarks/PRIVACY.md; made by

python -m benchmarks.privacy --out=benchmarks/PRIVACY.md
"""

from typing import Literal

from ml_collections import ConfigDict

PUBLIC = "runs/private_public"


def get_config(kind: Literal["private", "public", "scratch", "open"] = "private") -> ConfigDict:
    """Return the recipe: "scratch" is private without the start, "open" the start and the same rows without privacy."""
    public, private = kind == "public", kind in ("private", "scratch")
    words = {"name": "bpe", "vocab_size": 512} if public else {"name": "huggingface", "path": f"{PUBLIC}/tokenizer"}
    rows = {"batch_size": 32} if public else {"poisson": 384.0, "batch_size": 512} if private else {"batch_size": 384}
    return ConfigDict({
        "model": {"name": "llama", "num_layers": 2, "embed_dim": 64, "num_heads": 2, "mlp_dim": 176, "tied": True},
        "init_from": PUBLIC if kind in ("private", "open") else None,
        "optimizer": {
            "name": "muon", "learning_rate": 0.01, "weight_decay": 0.0,
            "schedule": {"name": "wsd", "warmup_steps": 20},
        } if public else {
            "name": "adamw", "learning_rate": 8e-3, "weight_decay": 0.0, "clip_norm": None,
            "schedule": {"name": "cosine", "warmup_steps": 10},
        },
        "data": {"source": "stdlib_docs" if public else "sotu", "tokenizer": words, "seq_len": 128, **rows},
        "train": {
            "duration": "1000 steps" if public else "80 steps", "learner": "private" if private else "gradient",
            "microbatches": 1 if public else 2,
        },
        "private": {"clip_norm": 0.5, "noise": 0.84, "delta": 1e-6},
        "eval": {"batch_size": 64},
        "checkpoint": {"every": 500 if public else 40},
    })  # fmt: skip
