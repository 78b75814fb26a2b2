"""Qwen 3 MoE of Hugging Face: Llama's names, norms of queries and keys, experts one by one, dense layers among them."""

from llm_jax.interop.fields import Entry, FieldMap, Fields, Json, either, field, harmless, only
from llm_jax.interop.names import NameMap
from llm_jax.interop.names.llama import LAYER, attention, gated, outside, widths
from llm_jax.interop.names.rules import Rule, linear, same
from llm_jax.interop.rope import rope


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


def _head_dim(config: Json) -> Fields:
    """Files that do not say it mean the width of a head."""
    width, heads = config.get("hidden_size") or 0, config.get("num_attention_heads") or 1
    return {"head_dim": config.get("head_dim") or width // heads}


FIELDS = FieldMap(
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    entries=(
        *widths(kv_heads=4),
        Entry(("head_dim",), _head_dim, lambda fields, shapes: {}),
        field("intermediate_size", "mlp_dim", default=6144),
        field("decoder_sparse_step", "sparse_step", default=1),
        Entry(
            ("mlp_only_layers",),
            lambda config: {"dense_layers": list(config.get("mlp_only_layers") or ())},
            lambda fields, shapes: {"mlp_only_layers": list(fields["dense_layers"])},
        ),
        field("norm_topk_prob", "renormalize", default=False),
        either(field("num_experts", "moe.num_experts", default=128), "num_local_experts"),
        field("num_experts_per_tok", "moe.top_k", default=8),
        field("moe_intermediate_size", "moe.mlp_dim", default=768),
        rope(),
        only("attention_bias", False),
        only("use_sliding_window", False),
        harmless("sliding_window", "max_window_layers"),
    ),
)
