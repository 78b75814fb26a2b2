"""Phi-3 of Hugging Face: Llama's names, with query, key and value in one kernel, and gate and up in another."""

from llm_jax.core.table import UserError
from llm_jax.interop.configs import Entry, FieldMap, Fields, Json, field, harmless, only
from llm_jax.interop.names import NameMap, linear
from llm_jax.interop.names.llama import LAYER, norms, outside, sizes

A = "blocks/attention"

NAMES = NameMap(
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    rules=(
        *outside(),
        *norms("blocks"),
        linear(f"{LAYER}.self_attn.qkv_proj.weight", f"{A}/query", f"{A}/key", f"{A}/value"),
        linear(f"{LAYER}.self_attn.o_proj.weight", f"{A}/out", inputs=2),
        linear(f"{LAYER}.mlp.gate_up_proj.weight", "blocks/mlp/gate", "blocks/mlp/up"),
        linear(f"{LAYER}.mlp.down_proj.weight", "blocks/mlp/down"),
    ),
)


def _read(config: Json) -> Fields:
    parameters = config.get("rope_parameters") or {}
    turned = parameters.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if turned != 1.0:
        raise UserError(f"partial_rotary_factor={turned} is not supported; this family turns whole heads")
    return {}


FIELDS = FieldMap(
    model_type="phi3",
    architecture="Phi3ForCausalLM",
    entries=(
        *sizes(eps=1e-5),
        field("sliding_window", "window", default=None),
        field("resid_pdrop", "dropout", default=0.0),
        only("attention_bias", False),
        Entry(("partial_rotary_factor",), _read, lambda fields, shapes: {}),
        harmless("embd_pdrop", "original_max_position_embeddings"),
    ),
)
