"""Gemma 2 of Hugging Face: two norms more a block, and the kinds of layers in turn."""

from llm_jax.core.table import UserError
from llm_jax.interop.fields import Entry, FieldMap, Fields, Json, field
from llm_jax.interop.names import NameMap
from llm_jax.interop.names.gemma.gemma import HEAD, fixed
from llm_jax.interop.names.llama import LAYER, gated, kernels, numbers, outside
from llm_jax.interop.names.rules import Rule, same
from llm_jax.interop.rope import rope

LOCAL, GLOBAL = "sliding_attention", "full_attention"


def block(stack: str) -> tuple[Rule, ...]:
    """One kind of block."""
    return (
        *kernels(stack),
        *gated(f"{LAYER}.mlp", f"{stack}/mlp"),
        same(f"{LAYER}.input_layernorm.weight", f"{stack}/attention_norm/scale"),
        same(f"{LAYER}.post_attention_layernorm.weight", f"{stack}/after_attention_norm/scale"),
        same(f"{LAYER}.pre_feedforward_layernorm.weight", f"{stack}/mlp_norm/scale"),
        same(f"{LAYER}.post_feedforward_layernorm.weight", f"{stack}/after_mlp_norm/scale"),
    )


NAMES = NameMap(copies=HEAD, rules=(*outside(), *block("local_blocks"), *block("global_blocks")))


def layer_types(layers: int, every: int) -> list[str]:
    """The kinds of layers where each `every`-th is global."""
    return [LOCAL if (i + 1) % every else GLOBAL for i in range(layers)]


def _read(config: Json) -> Fields:
    found = config.get("layer_types")
    if found and list(found) != layer_types(len(found), 2):
        raise UserError(f"layer_types={found} is not supported; this family does {LOCAL} and {GLOBAL} in turn")
    return {}


FIELDS = FieldMap(
    model_type="gemma2",
    architecture="Gemma2ForCausalLM",
    entries=(
        *numbers("local_blocks", 4, 256, 1e-6),
        rope(),
        *fixed(),
        field("sliding_window", "window", default=4096),
        field("query_pre_attn_scalar", "score_dim", default=256, size=("local_blocks/attention/key", -1)),
        field("attn_logit_softcapping", "score_cap", default=50.0),
        field("final_logit_softcapping", "logit_cap", default=30.0),
        Entry(("layer_types",), _read, lambda fields, shapes: {"layer_types": layer_types(fields["num_layers"], 2)}),
    ),
)
