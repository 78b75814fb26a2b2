"""Written answers to questions about Debian's packages: a small llama from scratch that reads the passage, or :t5 a T5.

The questions of configs/answer_spans.py. Needs Debian or Ubuntu: `python -m llm_jax fetch debian_questions`.

python -m benchmarks.answers --config=configs/answer.py --workdir=runs/answer
python -m llm_jax train --config=configs/answer.py --workdir=runs/answer
python -m llm_jax ask --workdir=runs/answer --passage=FILE --question="Who maintains zsh?"
"""

from typing import Literal

from ml_collections import ConfigDict

T5 = {"name": "t5", "num_layers": 3, "embed_dim": 128, "num_heads": 4, "mlp_dim": 256, "gated": True, "tied": True}
LLAMA = {"name": "llama", "num_layers": 4, "embed_dim": 128, "num_heads": 4, "mlp_dim": 352, "tied": True}
JOINED = {"joined": True, "separator": "\nanswer: ", "learn_source": True}


def get_config(kind: Literal["decoder", "t5"] = "decoder") -> ConfigDict:
    """Return the recipe."""
    joined = kind == "decoder"
    form = {"name": "answers", "long": "drop"}
    return ConfigDict({
        "model": LLAMA if joined else T5,
        "objective": {"name": "causal" if joined else "seq2seq"},
        "optimizer": {
            **({"name": "muon", "learning_rate": 0.01} if joined else {"name": "adafactor", "learning_rate": 0.05}),
            "schedule": {"name": "cosine", "warmup_steps": 100},
        },
        "data": {
            "source": "published", "options": {"name": "debian_questions"},
            "form": form | (JOINED if joined else {"source_len": 144}),
            "tokenizer": {"name": "bpe", "vocab_size": 2048}, "batch_size": 8 if joined else 16,
            "seq_len": 256 if joined else 32,
        },
        "train": {"duration": "2000 steps"},
        "eval": {"every": 500, "batches": 16},
        "checkpoint": {"every": 500},
        "log": {"every": 50},
    })  # fmt: skip
