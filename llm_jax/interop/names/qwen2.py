"""Qwen 2 of Hugging Face: Llama's names, and biases of queries, keys and values."""

from llm_jax.core.table import UserError
from llm_jax.interop.fields import Entry, FieldMap, Fields, Json
from llm_jax.interop.names import NameMap
from llm_jax.interop.names.llama import LAYER, attention, dense, gated, outside
from llm_jax.interop.names.rules import vector

WHOLE = "full_attention"


def _read(config: Json) -> Fields:
    windowed = config.get("use_sliding_window") and config.get("sliding_window") is not None
    kinds = config.get("layer_types") or [WHOLE]
    if config.get("layer_types") is None and windowed:
        kinds = [WHOLE] * config.get("max_window_layers", 28) + ["sliding_attention"]
        kinds = kinds[: config.get("num_hidden_layers")]
    if set(kinds) != {WHOLE}:
        raise UserError(f"layers that are {sorted(set(kinds) - {WHOLE})} are not supported; this family's see all")
    return {}


WINDOWS = Entry(
    ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types"),
    _read,
    lambda fields, shapes: {"use_sliding_window": False},
)
"""The windows of some layers, which no published model has."""

NAMES = NameMap(
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    rules=(
        *outside(),
        *attention("blocks"),
        *(
            vector(f"{LAYER}.self_attn.{part[0]}_proj.bias", f"blocks/attention/{part}_bias")
            for part in ("query", "key", "value")
        ),
        *gated(f"{LAYER}.mlp", "blocks/mlp"),
    ),
)

FIELDS = FieldMap(
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    entries=(*dense(kv_heads=32), WINDOWS),
)
