"""Mixtral of Hugging Face: Llama's names, and of each expert w1 (gate), w2 (down) and w3 (up)."""

from llm_jax.interop.fields import FieldMap, field, harmless
from llm_jax.interop.names import NameMap
from llm_jax.interop.names.llama import LAYER, attention, outside, widths
from llm_jax.interop.names.rules import linear
from llm_jax.interop.rope import rope

MOE = f"{LAYER}.block_sparse_moe"

NAMES = NameMap(
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    rules=(
        *outside(),
        *attention("blocks"),
        linear(f"{MOE}.gate.weight", "blocks/mlp/router/kernel"),
        linear(f"{MOE}.experts.{{expert}}.w1.weight", "blocks/mlp/experts/gate"),
        linear(f"{MOE}.experts.{{expert}}.w2.weight", "blocks/mlp/experts/down"),
        linear(f"{MOE}.experts.{{expert}}.w3.weight", "blocks/mlp/experts/up"),
    ),
)

FIELDS = FieldMap(
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    entries=(
        *widths(kv_heads=8, eps=1e-5),
        field("sliding_window", "window", default=None),
        field("num_local_experts", "moe.num_experts", default=8),
        field("num_experts_per_tok", "moe.top_k", default=2),
        field("intermediate_size", "moe.mlp_dim", default=14336),
        rope(theta=1e6),
        harmless("router_jitter_noise"),
    ),
)
