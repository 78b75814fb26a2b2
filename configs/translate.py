"""English to German from the help of LibreOffice: a small T5 from scratch, or with :marian, :decoder a Marian, a llama.

Needs the packages of Debian or Ubuntu: `python -m llm_jax fetch libreoffice_help`. French and Chinese are there too:
--config.data.options.where="{'language': 'fr'}" with another --config.data.form.prefix.

Measured over 512 held-out texts, in about 12 CPU-minutes: BLEU 32.5, chrF 54.6 (95 %: 29.9 to 35.1, 52.7 to 56.6),
beside a translation memory, the target of the nearest source by scikit-learn's TF-IDF: 26.6, 44.1 (23.0 to 30.4,
41.1 to 47.2). Of as many steps :marian makes 13.0, 34.5: its norms stand after each part, and it learns slowly. Of as
many epochs :decoder (--batches=32, as its batches are half) makes 25.3, 48.6 (22.7 to 27.3, 47.0 to 50.2) with Muon;
AdamW at 3e-3 made 12.6, 35.6 on half of the texts.

French, with --config.data.options.where="{'language': 'fr'}" --config.data.form.prefix="translate English to French: ",
makes 44.2, 64.8, and the translation memory 29.8, 46.5.

python -m benchmarks.written --config=configs/translate.py --workdir=runs/translate --beams=4 --batches=16
python -m llm_jax train --config=configs/translate.py --workdir=runs/translate
"""

from typing import Literal

from ml_collections import ConfigDict

MODELS = {
    "t5": {
        "name": "t5", "num_layers": 3, "embed_dim": 128, "num_heads": 4, "mlp_dim": 256, "gated": True, "tied": False,
    },
    "marian": {"name": "marian", "num_layers": 3, "embed_dim": 128, "num_heads": 4},
    "decoder": {
        "name": "llama", "num_layers": 4, "embed_dim": 128, "num_heads": 4, "mlp_dim": 352, "tied": True,
    },
}  # fmt: skip
OPTIMIZERS = {
    "t5": {"name": "adafactor", "learning_rate": 0.05},
    "marian": {"name": "adamw", "learning_rate": 1e-3, "b2": 0.98},
    "decoder": {"name": "muon", "learning_rate": 0.01, "b2": 0.99, "weight_decay": 0.01},
}
PREFIX = "translate English to German: "


def get_config(kind: Literal["t5", "marian", "decoder"] = "t5") -> ConfigDict:
    """Return the recipe."""
    joined = kind == "decoder"
    form = {"name": "pairs", "prefix": PREFIX, "long": "drop"}
    return ConfigDict({
        "model": MODELS[kind],
        "objective": {"name": "causal" if joined else "seq2seq", "label_smoothing": 0.1},
        "optimizer": OPTIMIZERS[kind] | {"schedule": {"name": "cosine", "warmup_steps": 100}},
        "data": {
            "source": "published",
            "options": {"name": "libreoffice_help", "where": {"language": "de"}, "held_out": 0.03},
            "form": form | ({"joined": True, "separator": "\ntranslation: "} if joined else {"source_len": 64}),
            "tokenizer": {"name": "bpe", "vocab_size": 4096}, "batch_size": 16 if joined else 32,
            "seq_len": 128 if joined else 64,
        },
        "train": {"duration": "2 epochs"},
        "eval": {"every": 500, "batches": 8},
        "checkpoint": {"every": 500},
        "log": {"every": 50},
    })  # fmt: skip
