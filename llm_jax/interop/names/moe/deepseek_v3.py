"""DeepSeek-V3 of Hugging Face: latent attention, dense layers first, then shared experts and experts one by one."""

from llm_jax.core.table import UserError
from llm_jax.interop.fields import Entry, FieldMap, Fields, Json, field, harmless, only
from llm_jax.interop.names import NameMap
from llm_jax.interop.names.llama import LAYER, gated, norms, outside
from llm_jax.interop.names.moe.qwen3_moe import experts
from llm_jax.interop.names.rules import Rule, linear, same
from llm_jax.interop.rope import MSCALE, YARN, yarn

ATTENTION = f"{LAYER}.self_attn"


def _latent(stack: str) -> tuple[Rule, ...]:
    """With a latent vector of the queries and without: rules whose parameters a model lacks are left out."""
    ours = f"{stack}/attention"
    return (
        *norms(stack),
        linear(f"{ATTENTION}.q_a_proj.weight", f"{ours}/query_down"),
        same(f"{ATTENTION}.q_a_layernorm.weight", f"{ours}/query_norm/scale"),
        linear(f"{ATTENTION}.q_b_proj.weight", f"{ours}/query_up"),
        linear(f"{ATTENTION}.q_proj.weight", f"{ours}/query"),
        linear(f"{ATTENTION}.kv_a_proj_with_mqa.weight", f"{ours}/latent", f"{ours}/turned_key"),
        same(f"{ATTENTION}.kv_a_layernorm.weight", f"{ours}/latent_norm/scale"),
        linear(f"{ATTENTION}.kv_b_proj.weight", f"{ours}/expand"),
        linear(f"{ATTENTION}.o_proj.weight", f"{ours}/out", inputs=2),
    )


NAMES = NameMap(
    ignored=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq", r"model\.layers\.61\..*"),  # 61 predicts further
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    rules=(
        *outside(),
        *_latent("dense_blocks"),
        *gated(f"{LAYER}.mlp", "dense_blocks/mlp/mlp"),
        *_latent("blocks"),
        *experts("blocks"),
        same(f"{LAYER}.mlp.gate.e_score_correction_bias", "blocks/mlp/router/correction_bias"),
        *gated(f"{LAYER}.mlp.shared_experts", "blocks/mlp/shared"),
    ),
)


def _read_kv_heads(config: Json) -> Fields:
    heads, said = config.get("num_attention_heads"), config.get("num_key_value_heads")
    if said not in (heads, None):
        raise UserError(f"num_key_value_heads={said} is not supported; every head makes its own key of the latent one")
    return {}


FIELDS = FieldMap(
    model_type="deepseek_v3",
    architecture="DeepseekV3ForCausalLM",
    entries=(
        field("vocab_size", "vocab_size"),
        field("num_hidden_layers", "num_layers"),
        field("first_k_dense_replace", "dense_layers", default=3),
        field("hidden_size", "embed_dim"),
        field("num_attention_heads", "num_heads"),
        field("intermediate_size", "mlp_dim"),
        field("tie_word_embeddings", "tied", default=False),
        field("rms_norm_eps", "norm_eps", default=1e-6),
        field("kv_lora_rank", "latent.rank", default=512),
        field("q_lora_rank", "latent.query_rank", default=1536),
        field("qk_nope_head_dim", "latent.nope_dim", default=128),
        field("qk_rope_head_dim", "latent.rope_dim", default=64),
        field("v_head_dim", "latent.value_dim", default=128),
        field("rope_interleave", "latent.interleaved", default=True),
        field("n_routed_experts", "moe.num_experts", default=256),
        field("num_experts_per_tok", "moe.top_k", default=8),
        field("moe_intermediate_size", "moe.mlp_dim", default=2048),
        field("n_shared_experts", "selection.shared", default=1),
        field("n_group", "selection.groups", default=8),
        field("topk_group", "selection.top_groups", default=4),
        field("norm_topk_prob", "selection.renormalize", default=True),
        field("routed_scaling_factor", "selection.scale", default=2.5),
        Entry(("num_key_value_heads",), _read_kv_heads, lambda fields, _: {"num_key_value_heads": fields["num_heads"]}),
        yarn(YARN | MSCALE),
        only("hidden_act", "silu"),
        only("attention_bias", False),
        only("moe_layer_freq", 1),
        only("scoring_func", "sigmoid"),
        only("topk_method", "noaux_tc"),
        harmless("head_dim", "qk_head_dim", "ep_size", "aux_loss_alpha", "seq_aux"),
        harmless("num_nextn_predict_layers", "num_mtp_layers", write={"num_nextn_predict_layers": 0}),
    ),
)
