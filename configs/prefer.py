"""SmolLM2-135M-Instruct learns to write of films what people who liked them write: direct preference optimisation.

Pairs of sentences of film reviews, the one first that people rated higher by 2 or more of -4 to 4.

python -m llm_jax fetch film_preferences
python -m llm_jax import $(python -m llm_jax fetch smollm2) --workdir=runs/smollm2
python -m llm_jax train --config=configs/prefer.py --workdir=runs/prefer

Measured on the 301 held-out pairs: the better sentence is the more probable one in 50 % before and 62 % after, a token
in 55 % and 81 % (± 2 to 3). scikit-learn's logistic regression on differences of TF-IDF (words and pairs of words),
which ranks and cannot write, reaches 76 % from as many pairs (480) and 86 % from all 3143.

:ipo, :orpo and :simpo learn by another objective; :orpo, at the same rate, ends at 51 % and 59 %. Of your own:
--config.data.source=files --config.data.options="{'train': 'my.jsonl'}", with prompt, chosen and rejected in each line.
"""

from typing import Literal

from ml_collections import ConfigDict

SMOLLM2 = {
    "name": "llama", "vocab_size": 49152, "num_layers": 30, "embed_dim": 576, "num_heads": 9, "num_kv_heads": 3,
    "head_dim": 64, "mlp_dim": 1536, "tied": True, "norm_eps": 1e-5, "rope": {"theta": 100000.0},
}  # fmt: skip
LORA = {"name": "lora", "rank": 16, "alpha": 32.0, "targets": ["attention/", "mlp/(gate|up|down)"]}


def get_config(objective: Literal["dpo", "ipo", "orpo", "simpo"] = "dpo") -> ConfigDict:
    """Return the recipe."""
    return ConfigDict({
        "model": SMOLLM2,
        "init_from": "runs/smollm2",
        "adapt": LORA,
        "objective": {"name": objective},
        "optimizer": {
            "name": "adamw", "learning_rate": 5e-4, "b2": 0.99, "schedule": {"name": "cosine", "warmup_steps": 5},
        },
        "data": {
            "source": "published", "options": {"name": "film_preferences"},
            "form": {"name": "preferences", "long": "drop"}, "tokenizer": {"name": "huggingface"}, "batch_size": 8,
            "seq_len": 80,
        },
        "train": {"duration": "60 steps"},
        "eval": {"every": 60, "batches": None},
        "checkpoint": {"every": 20},
        "log": {"every": 5},
    })  # fmt: skip
