"""One recipe of the ladder: a model of about a million parameters on the quickstart's text, split and tokenizer.

python -m llm_jax train --config=experiments/ladder_of_language_models/recipe.py:llama --workdir=runs/ladder/llama
"""

from ml_collections import ConfigDict

SMALL = {"num_layers": 4, "embed_dim": 128, "num_heads": 4}
GATED = SMALL | {"mlp_dim": 352}
EXPERTS = SMALL | {"moe": {"num_experts": 8, "top_k": 2, "mlp_dim": 176}}

MODELS = {
    "deepseek_v3": EXPERTS
    | {"mlp_dim": 352, "latent": {"rank": 48, "query_rank": None, "nope_dim": 24, "rope_dim": 16, "value_dim": 32}},
    "gemma": GATED | {"head_dim": 32},
    "gemma2": GATED | {"head_dim": 32, "num_kv_heads": 4, "window": 64},
    "gemma3": GATED | {"head_dim": 32, "num_kv_heads": 4, "window": 64},
    "gpt2": SMALL,
    "gpt_neox": SMALL,
    "gpt_oss": EXPERTS | {"head_dim": 32, "num_kv_heads": 4, "window": 64},
    "llama": GATED | {"tied": True},
    "mamba2": {"num_layers": 4, "embed_dim": 128, "head_dim": 32, "state_dim": 32},
    "mistral": GATED | {"window": 64},
    "mixtral": EXPERTS,
    "olmo2": GATED,
    "phi3": GATED,
    "qwen2": GATED | {"tied": True},
    "qwen3": GATED | {"head_dim": 32, "tied": True},
    "qwen3_moe": EXPERTS | {"head_dim": 32, "mlp_dim": 352},
}
"""Sizes of each key of `llm_jax.models.MODELS`; what is not named is the family's own."""

ADAM = {"name": "adamw", "learning_rate": 3e-3, "weight_decay": 0.1, "b2": 0.99}


def get_config(name: str) -> ConfigDict:
    """Return the recipe of a rung."""
    return ConfigDict({
        "model": {"name": name, **MODELS[name]},
        "objective": {"name": "causal"},
        "optimizer": {**ADAM, "schedule": {"name": "wsd", "warmup_steps": 20}},
        "data": {
            "source": "sotu", "tokenizer": {"name": "bpe", "vocab_size": 2048}, "batch_size": 16, "seq_len": 128,
        },
        "checkpoint": {"every": 1_000_000},
        "sample": {"prompts": ["My fellow citizens, "], "tokens": 64, "temperature": 0.6, "top_p": 0.9},
    })  # fmt: skip
