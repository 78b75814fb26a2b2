"""Mixtral of Hugging Face: Llama's names, and of each expert w1 (gate), w2 (down) and w3 (up)."""

from llm_jax.interop.names import NameMap, linear
from llm_jax.interop.names.llama import LAYER, attention, outside

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
