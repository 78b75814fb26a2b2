"""One small model of each family that has a map of names: three layers, all sizes different."""

from llm_jax.nn.moe.router import Moe

FIELDS = {"vocab_size": 37, "num_layers": 3, "embed_dim": 12, "num_heads": 3, "head_dim": 2}
MOE = {"moe": Moe(num_experts=4, mlp_dim=5)}
ENCODER = {"vocab_size": 37, "num_layers": 3, "embed_dim": 12, "num_heads": 3, "max_positions": 7}
MODELS_OF = {
    "bart": ENCODER,
    "bert": ENCODER | {"pooler": True},
    "deepseek_v3": {k: v for k, v in FIELDS.items() if k != "head_dim"} | MOE | {"mlp_dim": 18},
    "gemma": FIELDS | {"num_kv_heads": 1, "mlp_dim": 18},
    "gemma2": FIELDS | {"num_kv_heads": 1, "mlp_dim": 18},
    "gemma3": FIELDS | {"num_kv_heads": 1, "mlp_dim": 18, "global_every": 2},
    "gpt2": FIELDS | {"max_positions": 7},
    "gpt_neox": {k: v for k, v in FIELDS.items() if k != "head_dim"} | {"rotary": 0.5},
    "gpt_oss": FIELDS | MOE | {"num_kv_heads": 1},
    "llama": FIELDS | {"num_kv_heads": 1, "mlp_dim": 18},
    "mamba2": FIELDS | {"state_dim": 4, "num_groups": 3, "tied": False},
    "marian": {k: v for k, v in ENCODER.items() if k != "max_positions"},
    "mistral": FIELDS | {"num_kv_heads": 1, "mlp_dim": 18, "window": 2},
    "mixtral": FIELDS | MOE | {"num_kv_heads": 1},
    "modernbert": {k: v for k, v in FIELDS.items() if k != "head_dim"} | {"num_layers": 5, "mlp_dim": 18},
    "olmo2": FIELDS | {"num_kv_heads": 1, "mlp_dim": 18},
    "phi3": FIELDS | {"num_kv_heads": 1, "mlp_dim": 18, "window": 2},
    "qwen2": FIELDS | {"num_kv_heads": 1, "mlp_dim": 18},
    "qwen3": FIELDS | {"num_kv_heads": 1, "mlp_dim": 18},
    "qwen3_moe": FIELDS | MOE | {"num_kv_heads": 1, "mlp_dim": 18, "dense_layers": (1,)},
    "roberta": ENCODER,
    "t5": FIELDS | {"gated": True, "tied": False},
}
