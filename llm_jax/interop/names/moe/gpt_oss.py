"""gpt-oss of Hugging Face: Llama's names with biases and sinks; all experts in one tensor, gate and up in turn."""

from llm_jax.core.table import UserError
from llm_jax.interop.fields import Entry, FieldMap, Fields, Json, either, field, harmless, only
from llm_jax.interop.names import NameMap
from llm_jax.interop.names.llama import LAYER, attention, outside, widths
from llm_jax.interop.names.rules import Rule, in_turn, linear, same, vector
from llm_jax.interop.rope import YARN, yarn

MLP, ATTENTION = f"{LAYER}.mlp", f"{LAYER}.self_attn"


def _block(stack: str) -> tuple[Rule, ...]:
    experts = f"{stack}/mlp/experts"
    return (
        *attention(stack),
        *(vector(f"{ATTENTION}.{n[0]}_proj.bias", f"{stack}/attention/{n}_bias") for n in ("query", "key", "value")),
        same(f"{ATTENTION}.o_proj.bias", f"{stack}/attention/out_bias"),
        same(f"{ATTENTION}.sinks", f"{stack}/attention/sinks"),
        linear(f"{MLP}.router.weight", f"{stack}/mlp/router/kernel"),
        same(f"{MLP}.router.bias", f"{stack}/mlp/router/bias"),
        in_turn(f"{MLP}.experts.gate_up_proj", f"{experts}/gate", f"{experts}/up", inputs=2),
        in_turn(f"{MLP}.experts.gate_up_proj_bias", f"{experts}/gate_bias", f"{experts}/up_bias", inputs=1),
        same(f"{MLP}.experts.down_proj", f"{experts}/down"),
        same(f"{MLP}.experts.down_proj_bias", f"{experts}/down_bias"),
    )


NAMES = NameMap(
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    rules=(*outside(), *_block("local_blocks"), *_block("global_blocks")),
)


USUAL = {
    "rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "beta_fast": 32.0, "beta_slow": 1.0,
    "truncate": False,
}  # fmt: skip
"""The rotary positions of a config.json that says nothing of them."""


def _in_turn(layers: int) -> list[str]:
    return [("sliding_attention", "full_attention")[i % 2] for i in range(layers)]


def _read_kinds(config: Json) -> Fields:
    wanted = _in_turn(config.get("num_hidden_layers", 0))
    if (config.get("layer_types") or wanted) != wanted:
        raise UserError(f"layer_types={config['layer_types']!r} is not supported; this family does them in turn")
    return {}


FIELDS = FieldMap(
    model_type="gpt_oss",
    architecture="GptOssForCausalLM",
    entries=(
        *widths(kv_heads=8, head_dim=64, eps=1e-5),
        field("sliding_window", "window", default=128),
        field("swiglu_alpha", "alpha", default=1.702),
        field("swiglu_limit", "limit", default=7.0),
        field("num_local_experts", "moe.num_experts", default=128),
        either(field("num_experts_per_tok", "moe.top_k", default=4), "experts_per_token"),
        field("intermediate_size", "moe.mlp_dim", default=2880),
        Entry(("layer_types",), _read_kinds, lambda fields, shapes: {"layer_types": _in_turn(fields["num_layers"])}),
        yarn(YARN, theta=150_000.0, usual=USUAL),
        only("attention_bias", True),
        harmless("initial_context_length"),
    ),
)
