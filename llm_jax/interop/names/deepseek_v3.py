"""DeepSeek-V3 of Hugging Face: latent attention, dense layers first, then shared experts and experts one by one."""

from llm_jax.interop.names import NameMap, Rule, linear, same
from llm_jax.interop.names.llama import LAYER, gated, norms, outside
from llm_jax.interop.names.qwen3_moe import experts

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
