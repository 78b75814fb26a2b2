"""Llama of Hugging Face: `Linear` kernels [out, in], rotary halves as ours; a tied model has no `lm_head`."""

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
