"""English to German from the help of LibreOffice: a small Marian from scratch, or with :decoder a llama.

Needs the packages of Debian or Ubuntu: `python -m llm_jax fetch libreoffice_help`. French and Chinese are there too:
--config.data.options.where="{'language': 'fr'}" with another --config.data.form.prefix.

python -m llm_jax train --config=configs/translate.py --workdir=runs/translate
"""

from ml_collections import ConfigDict

MARIAN = {"name": "marian", "num_layers": 3, "embed_dim": 128, "num_heads": 4}
LLAMA = {"name": "llama", "num_layers": 4, "embed_dim": 128, "num_heads": 4, "mlp_dim": 352, "tied": True}
PREFIX = "translate English to German: "


def get_config(kind: str = "marian") -> ConfigDict:
    """Return the recipe; kind is "marian" or "decoder"."""
    joined = kind == "decoder"
    form = {"name": "pairs", "prefix": PREFIX, "long": "drop"}
    return ConfigDict({
        "model": LLAMA if joined else MARIAN,
        "objective": {"name": "causal" if joined else "seq2seq", "label_smoothing": 0.1},
        "optimizer": {
            "name": "adamw", "learning_rate": 3e-3, "weight_decay": 0.01, "b2": 0.99,
            "schedule": {"name": "cosine", "warmup_steps": 100},
        },
        "data": {
            "source": "published",
            "options": {"name": "libreoffice_help", "where": {"language": "de"}, "held_out": 0.03},
            "form": form | ({"joined": True, "separator": "\ntranslation: "} if joined else {"source_len": 64}),
            "tokenizer": {"name": "bpe", "vocab_size": 4096}, "batch_size": 16,
            "seq_len": 128 if joined else 64,
        },
        "train": {"duration": "2 epochs"},
        "eval": {"every": 500, "batches": 8},
        "checkpoint": {"every": 500},
        "log": {"every": 50},
    })  # fmt: skip
