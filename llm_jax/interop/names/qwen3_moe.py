"""Qwen 3 MoE of Hugging Face: Llama's names, norms of queries and keys, experts one by one, dense layers among them."""

from llm_jax.interop.names import NameMap, Rule, linear, same
from llm_jax.interop.names.llama import LAYER, attention, gated, outside


def experts(stack: str) -> tuple[Rule, ...]:
    """The router and each expert's gate, up and down."""
    one = f"{LAYER}.mlp.experts.{{expert}}"
    return (
        linear(f"{LAYER}.mlp.gate.weight", f"{stack}/mlp/router/kernel"),
        *(linear(f"{one}.{part}_proj.weight", f"{stack}/mlp/experts/{part}") for part in ("gate", "up", "down")),
    )


def _norms(stack: str) -> tuple[Rule, ...]:
    return (
        same(f"{LAYER}.self_attn.q_norm.weight", f"{stack}/attention/query_norm/scale"),
        same(f"{LAYER}.self_attn.k_norm.weight", f"{stack}/attention/key_norm/scale"),
    )


NAMES = NameMap(
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    rules=(
        *outside(),
        *attention("dense_blocks"),
        *_norms("dense_blocks"),
        *gated(f"{LAYER}.mlp", "dense_blocks/mlp/mlp"),
        *attention("blocks"),
        *_norms("blocks"),
        *experts("blocks"),
    ),
)
