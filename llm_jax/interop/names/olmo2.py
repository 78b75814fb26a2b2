"""OLMo 2 of Hugging Face: Llama's names, norms after the parts, and of all queries and all keys, flattened."""

from llm_jax.interop.fields import FieldMap, only
from llm_jax.interop.names import NameMap
from llm_jax.interop.names.llama import LAYER, dense, gated, kernels, outside
from llm_jax.interop.names.rules import same, vector

NAMES = NameMap(
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    rules=(
        *outside(),
        *kernels("blocks"),
        vector(f"{LAYER}.self_attn.q_norm.weight", "blocks/attention/query_norm/scale"),
        vector(f"{LAYER}.self_attn.k_norm.weight", "blocks/attention/key_norm/scale"),
        same(f"{LAYER}.post_attention_layernorm.weight", "blocks/attention_norm/scale"),
        same(f"{LAYER}.post_feedforward_layernorm.weight", "blocks/mlp_norm/scale"),
        *gated(f"{LAYER}.mlp", "blocks/mlp"),
    ),
)

FIELDS = FieldMap(
    model_type="olmo2",
    architecture="Olmo2ForCausalLM",
    entries=(*dense(eps=1e-5), only("attention_bias", False)),
)
