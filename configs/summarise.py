"""One line from a description of a Debian package: a small T5 from scratch, or with :decoder a llama.

Needs Debian or Ubuntu: `python -m llm_jax fetch debian_synopses`.

Measured over 512 held-out descriptions, in about 12 CPU-minutes: ROUGE-L 32.4, BLEU 14.8 (95 %: 30.3 to 34.7, 12.4 to
17.1), and the first sentence of each 26.7, 4.9. The synopsis of the nearest description by scikit-learn's TF-IDF makes
53.2, 41.2: packages have siblings, whose synopses differ by a word. :decoder, as long, over 256 of them: ROUGE-L 22.8,
BLEU 5.9 (20.5 to 25.4, 3.4 to 8.4), where their first sentences make 28.0, 5.3.

python -m benchmarks.written --config=configs/summarise.py --workdir=runs/summarise --beams=4 --batches=16
python -m llm_jax train --config=configs/summarise.py --workdir=runs/summarise
"""

from typing import Literal

from ml_collections import ConfigDict

T5 = {
    "name": "t5", "num_layers": 3, "embed_dim": 128, "num_heads": 4, "mlp_dim": 256, "gated": True, "tied": False,
}  # fmt: skip
LLAMA = {"name": "llama", "num_layers": 4, "embed_dim": 128, "num_heads": 4, "mlp_dim": 352, "tied": True}
JOINED = {"joined": True, "separator": "\nsummary: ", "learn_source": True}


def get_config(kind: Literal["t5", "decoder"] = "t5") -> ConfigDict:
    """Return the recipe."""
    joined = kind == "decoder"
    form = {"name": "pairs", "prefix": "summarize: ", "long": "cut"}
    return ConfigDict({
        "model": LLAMA if joined else T5,
        "objective": {"name": "causal" if joined else "seq2seq", "label_smoothing": 0.1},
        "optimizer": {
            **({"name": "muon", "learning_rate": 0.01} if joined else {"name": "adafactor", "learning_rate": 0.05}),
            "schedule": {"name": "cosine", "warmup_steps": 100},
        },
        "data": {
            "source": "published", "options": {"name": "debian_synopses", "held_out": 0.01},
            "form": form | (JOINED if joined else {"source_len": 128}),
            "tokenizer": {"name": "bpe", "vocab_size": 4096}, "batch_size": 16 if joined else 32,
            "seq_len": 192 if joined else 32,
        },
        "train": {"duration": "2000 steps"},
        "eval": {"every": 500, "batches": 8},
        "checkpoint": {"every": 500},
        "log": {"every": 50},
    })  # fmt: skip
