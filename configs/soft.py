"""A small student of a service: its answers as texts, and the five likeliest tokens in each place (Hinton et al. 2015).

The service has to speak with the student's tokenizer: here SmolLM2's, which runs/smollm2 has, beside a chat template.

    python -m llm_jax import $(python -m llm_jax fetch smollm2) --workdir=runs/smollm2
    python -m llm_jax label --url=URL --model=NAME --prompts=prompts.jsonl --to=answers.jsonl --top=5 --temperature=1
    python -m llm_jax train --config=configs/soft.py --workdir=runs/soft

:text learns from the same answers as texts alone, which a student of any tokenizer can.

Measured by `python -m benchmarks.soft --workdir=runs/soft --seeds=2`: 800 short descriptions of Debian's packages
that SmolLM2-135M-Instruct, by transformers, was asked to sum up as by configs/chat.py:synopses (--max_tokens=48), 114
of the answers held out. Nats a token of these after 120 steps: 7.737 and 7.768 from the likeliest tokens, 7.917 and
7.909 from the texts alone (seeds 0 and 1); transformers' llama, taught the same by torch from the same first parameters
(seed 0), 7.737 and 7.917. 141 of the 800, drawn in other tokens than those into which their texts are split, taught
their texts alone. Both kinds were at their best after 80 steps. Some 4 and 2 minutes on two cores under load.
"""

from typing import Literal

from ml_collections import ConfigDict


def get_config(kind: Literal["soft", "text"] = "soft") -> ConfigDict:
    """Return the recipe."""
    soft = kind == "soft"
    return ConfigDict({
        "model": {"name": "llama", "num_layers": 2, "embed_dim": 48, "num_heads": 2, "mlp_dim": 128, "tied": True},
        "objective": {"name": "soft", "alpha": 0.8} if soft else {"name": "causal"},
        "optimizer": {
            "name": "adamw", "learning_rate": 5e-3, "schedule": {"name": "cosine", "warmup_steps": 10},
        },
        "data": {
            "source": "files", "options": {"train": "answers.jsonl", "held_out": 0.15},
            "form": {"name": "soft" if soft else "chat", "template": "runs/smollm2/chat_template.jinja"},
            "tokenizer": {"name": "huggingface", "path": "runs/smollm2/tokenizer"}, "batch_size": 4, "seq_len": 256,
        },
        "train": {"duration": "120 steps"},
        "eval": {"every": 40},
        "checkpoint": {"every": 40},
        "log": {"every": 20},
    })  # fmt: skip
