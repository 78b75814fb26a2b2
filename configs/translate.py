"""English to German from the help of LibreOffice: a small T5 from scratch, or with :decoder a llama.

Needs the packages of Debian or Ubuntu: `python -m llm_jax fetch libreoffice_help`. French and Chinese are there too:
--config.data.options.where="{'language': 'fr'}" with another --config.data.form.prefix.

python -m llm_jax train --config=configs/translate.py --workdir=runs/translate
"""

from ml_collections import ConfigDict

T5 = {
    "name": "t5", "num_layers": 3, "embed_dim": 192, "num_heads": 4, "mlp_dim": 384, "gated": True, "tied": False,
}  # fmt: skip
LLAMA = {"name": "llama", "num_layers": 6, "embed_dim": 192, "num_heads": 4, "mlp_dim": 512, "tied": True}
PREFIX = "translate English to German: "


def get_config(kind: str = "t5") -> ConfigDict:
    """Return the recipe; kind is "t5" or "decoder"."""
    joined = kind == "decoder"
    form = {"name": "pairs", "prefix": PREFIX, "long": "drop"}
    return ConfigDict({
        "model": LLAMA if joined else T5,
        "objective": {"name": "causal" if joined else "seq2seq", "label_smoothing": 0.1},
        "optimizer": {
            "name": "adamw", "learning_rate": 2e-3, "weight_decay": 0.01, "b2": 0.99,
            "schedule": {"name": "cosine", "warmup_steps": 50},
        },
        "data": {
            "source": "published",
            "options": {"name": "libreoffice_help", "where": {"language": "de"}, "held_out": 0.03},
            "form": form | ({"joined": True, "separator": "\ntranslation: "} if joined else {"source_len": 64}),
            "tokenizer": {"name": "bpe", "vocab_size": 4096}, "batch_size": 16,
            "seq_len": 128 if joined else 64,
        },
        "train": {"duration": "400 steps"},
        "eval": {"every": 200, "batches": 8},
        "checkpoint": {"every": 200},
        "log": {"every": 50},
    })  # fmt: skip
