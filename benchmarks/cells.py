"""The benchmark's cells as a recipe of this library: GPT-2-style decoders on the State of the Union speeches.

python -m llm_jax train --config=benchmarks/cells.py:M --workdir=/tmp/cell_m
"""

from ml_collections import ConfigDict

from benchmarks.bare import CELLS


def get_config(name: str = "S") -> ConfigDict:
    """Return the recipe of a cell; checkpoints and log rows come at the intervals of a real recipe."""
    cell = CELLS[name]
    words = {"name": "characters"} if cell.V == 256 else {"name": "bpe", "vocab_size": 8192}
    return ConfigDict({
        "model": {
            "name": "gpt2", "num_layers": cell.L, "embed_dim": cell.D, "num_heads": cell.H, "mlp_dim": cell.F,
            "vocab_size": cell.V,
        },
        "optimizer": {"name": "adamw", "learning_rate": 3e-4, "weight_decay": 0.1, "b2": 0.95},
        "data": {"source": "sotu", "tokenizer": words, "batch_size": cell.B, "seq_len": cell.T},
        "train": {"duration": "1000000 steps"},
        "checkpoint": {"every": 1000},
        "log": {"every": 10 if name == "S" else 1},
    })  # fmt: skip
