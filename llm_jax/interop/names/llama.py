"""Llama of Hugging Face: `Linear` kernels [out, in], rotary halves as ours; a tied model has no `lm_head`."""

from llm_jax.interop.configs import FieldMap, field, only, rope
from llm_jax.interop.names import NameMap, linear, same

LAYER = "model.layers.{layer}"

NAMES = NameMap(
    ignored=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),  # constants that old files carry
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    rules=(
        same("model.embed_tokens.weight", "embed/tokens"),
        same(f"{LAYER}.input_layernorm.weight", "blocks/attention_norm/scale"),
        linear(f"{LAYER}.self_attn.q_proj.weight", "blocks/attention/query"),
        linear(f"{LAYER}.self_attn.k_proj.weight", "blocks/attention/key"),
        linear(f"{LAYER}.self_attn.v_proj.weight", "blocks/attention/value"),
        linear(f"{LAYER}.self_attn.o_proj.weight", "blocks/attention/out", inputs=2),
        same(f"{LAYER}.post_attention_layernorm.weight", "blocks/mlp_norm/scale"),
        linear(f"{LAYER}.mlp.gate_proj.weight", "blocks/mlp/gate"),
        linear(f"{LAYER}.mlp.up_proj.weight", "blocks/mlp/up"),
        linear(f"{LAYER}.mlp.down_proj.weight", "blocks/mlp/down"),
        same("model.norm.weight", "final_norm/scale"),
        same("lm_head.weight", "head/tokens"),
    ),
)

FIELDS = FieldMap(
    model_type="llama",
    architecture="LlamaForCausalLM",
    entries=(
        field("vocab_size", "vocab_size"),
        field("num_hidden_layers", "num_layers"),
        field("hidden_size", "embed_dim"),
        field("num_attention_heads", "num_heads"),
        field("num_key_value_heads", "num_kv_heads", default=None, size=("blocks/attention/key", -2)),
        field("head_dim", "head_dim", default=None, size=("blocks/attention/key", -1)),
        field("intermediate_size", "mlp_dim", size=("blocks/mlp/up", -1)),
        field("tie_word_embeddings", "tied", default=False),
        field("rms_norm_eps", "norm_eps", default=1e-6),
        rope(),
        only("hidden_act", "silu"),
        only("attention_bias", False),
        only("mlp_bias", False),
    ),
)
