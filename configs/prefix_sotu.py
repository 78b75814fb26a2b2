"""A small Llama as a prefix LM on the State of the Union speeches: each row is cut at random, and its end is written.

With :causal the beginning is read from left to right; all else is the same, cuts and targets among it. Measured with
the commands below, in held-out nats a token of the ends: 4.501 ± 0.014 in both directions, 4.500 ± 0.014 causally; row
by row the difference is 0.001 ± 0.004. At this size it gains nothing, and costs 3.6 CPU-minutes where causal takes 3.4.
:several learns to read causally, too, in the same steps: 1.978 held-out bits per byte of whole rows, 1.965 as the only
task.

python -m llm_jax train --config=configs/prefix_sotu.py --workdir=runs/prefix
python -m llm_jax train --config=configs/prefix_sotu.py:causal --workdir=runs/prefix_causal
python -m llm_jax train --config=configs/prefix_sotu.py:several --workdir=runs/prefix_several
"""

from typing import Literal

from ml_collections import ConfigDict

SEVERAL = [{"name": "causal"}, {"name": "prefix", "bidirectional": True}]


def get_config(kind: Literal["bidirectional", "causal", "several"] = "bidirectional") -> ConfigDict:
    """Return the recipe; kind is how the beginnings are read."""
    return ConfigDict({
        "model": {
            "name": "llama", "num_layers": 4, "embed_dim": 128, "num_heads": 4, "mlp_dim": 352, "tied": True,
        },
        "objective": {"name": "several", "tasks": SEVERAL}
        if kind == "several"
        else {"name": "prefix", "bidirectional": kind == "bidirectional"},
        "optimizer": {
            "name": "muon", "learning_rate": 0.01, "weight_decay": 0.0,
            "schedule": {"name": "wsd", "warmup_steps": 20},
        },
        "data": {
            "source": "sotu", "tokenizer": {"name": "bpe", "vocab_size": 2048}, "batch_size": 16, "seq_len": 128,
        },
        "train": {"duration": "800 steps"},
        "checkpoint": {"every": 800},
        "log": {"every": 50},
        "sample": {"prompts": ["My fellow citizens, "], "tokens": 64, "temperature": 0.6, "top_p": 0.9},
    })  # fmt: skip
