"""Instruction tuning: SmolLM2-135M-Instruct learns to answer as your examples do, on a laptop.

    python -m llm_jax import $(python -m llm_jax fetch smollm2) --workdir=runs/smollm2
    python -m llm_jax train --config=configs/chat.py --workdir=runs/chat --config.data.options.train=my.jsonl
    python -m llm_jax chat --workdir=runs/chat

A line of my.jsonl is {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]} or
{"prompt": "…", "response": "…"}; a table my.csv or my.tsv has columns prompt and response. Fields of other names:
--config.data.form.prompt=question --config.data.form.response=answer. A twentieth of the examples, by hash, is held
out; the loss is that of the answers alone.

LoRA over all kernels of the layers; :whole learns every parameter (8 steps of one row of 256 tokens: 4.5 GB of memory,
52 CPU-seconds); :synopses learns from published examples, to sum up descriptions of Debian's packages in a line
(python -m llm_jax fetch debian_synopses).
"""

from typing import Literal

from ml_collections import ConfigDict

SMOLLM2 = {
    "name": "llama", "vocab_size": 49152, "num_layers": 30, "embed_dim": 576, "num_heads": 9, "num_kv_heads": 3,
    "head_dim": 64, "mlp_dim": 1536, "tied": True, "norm_eps": 1e-5, "rope": {"theta": 100000.0},
}  # fmt: skip
LORA = {"name": "lora", "rank": 16, "alpha": 32.0, "targets": ["attention/", "mlp/(gate|up|down)"]}
SYNOPSES = {
    "name": "chat", "prompt": "source", "response": "target", "long": "drop",
    "prefix": "Sum up this software package in one line:\n\n",
}  # fmt: skip


def get_config(kind: Literal["lora", "whole", "synopses"] = "lora") -> ConfigDict:
    """Return the recipe."""
    whole, synopses = kind == "whole", kind == "synopses"
    return ConfigDict({
        "model": SMOLLM2,
        "init_from": "runs/smollm2",
        "adapt": {"name": "none"} if whole else LORA,
        "objective": {"name": "causal", "cross_entropy": "chunked"},
        "optimizer": {
            "name": "adamw", "learning_rate": 5e-5 if whole else 1e-3, "b2": 0.99,
            "schedule": {"name": "cosine", "warmup_steps": 5},
        },
        "data": {
            "source": "published" if synopses else "files",
            "options": {"name": "debian_synopses", "held_out": 0.003} if synopses else {},
            "form": SYNOPSES if synopses else {"name": "chat"}, "tokenizer": {"name": "huggingface"},
            "batch_size": 2 if synopses else 4, "seq_len": 256 if synopses else 512,
        },
        "train": {"duration": "40 steps" if synopses else "1 epoch"},
        "eval": {"every": 40, "batches": None} if synopses else {"every": 20, "batches": 4},
        "checkpoint": {"every": 20},
        "log": {"every": 5},
    })  # fmt: skip
