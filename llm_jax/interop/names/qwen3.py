"""Qwen 3 of Hugging Face: Llama's names, and norms of queries and keys."""

from llm_jax.interop.fields import FieldMap, only
from llm_jax.interop.names import NameMap
from llm_jax.interop.names.llama import LAYER, attention, dense, gated, outside
from llm_jax.interop.names.qwen2 import WINDOWS
from llm_jax.interop.names.rules import same

NAMES = NameMap(
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    rules=(
        *outside(),
        *attention("blocks"),
        same(f"{LAYER}.self_attn.q_norm.weight", "blocks/attention/query_norm/scale"),
        same(f"{LAYER}.self_attn.k_norm.weight", "blocks/attention/key_norm/scale"),
        *gated(f"{LAYER}.mlp", "blocks/mlp"),
    ),
)

FIELDS = FieldMap(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    entries=(*dense(kv_heads=32, head_dim=128), WINDOWS, only("attention_bias", False)),
)
