"""Gemma 3 of Hugging Face, its language model: norms of queries and keys, and rotary positions by kind of layer."""

from typing import Any

from llm_jax.core.table import UserError
from llm_jax.interop.fields import Entry, FieldMap, Fields, Json, Shapes, field, only
from llm_jax.interop.names import NameMap
from llm_jax.interop.names.gemma.gemma import HEAD, fixed
from llm_jax.interop.names.gemma.gemma2 import GLOBAL, LOCAL, block, layer_types
from llm_jax.interop.names.llama import LAYER, numbers, outside
from llm_jax.interop.names.rules import Rule, same
from llm_jax.interop.rope import rope, rope_parameters


def _block(stack: str) -> tuple[Rule, ...]:
    return (
        *block(stack),
        same(f"{LAYER}.self_attn.q_norm.weight", f"{stack}/attention/query_norm/scale"),
        same(f"{LAYER}.self_attn.k_norm.weight", f"{stack}/attention/key_norm/scale"),
    )


NAMES = NameMap(copies=HEAD, rules=(*outside(), *_block("local_blocks"), *_block("global_blocks")))


def _read_kinds(config: Json) -> Fields:
    found = list(config.get("layer_types") or ())
    every = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6
    if found:
        every = found.index(GLOBAL) + 1 if GLOBAL in found else max(every, len(found) + 1)
    if found != layer_types(len(found), every):
        raise UserError(f"layer_types={found} is not supported; this family does {GLOBAL} in each so many-th layer")
    return {"global_every": every}


def _write_kinds(fields: Fields, shapes: Shapes) -> dict[str, Any]:
    every = fields["global_every"]
    return {"layer_types": layer_types(fields["num_layers"], every), "sliding_window_pattern": every}


_GLOBAL, _LOCAL = rope(theta=1e6), rope("local", kinds=("default",))


def _read_ropes(config: Json) -> Fields:
    """Of a dialect that nests the kinds, or of one that has keys of its own for local layers."""
    nested = config.get("rope_parameters") or {}
    whole = {**config, "rope_parameters": nested[GLOBAL]} if GLOBAL in nested else config
    base = config.get("rope_local_base_freq", 10_000.0)
    local = rope_parameters({"rope_parameters": nested.get(LOCAL)}, base)
    theta = _LOCAL.read({"rope_parameters": local})["local.theta"]
    return _GLOBAL.read(whole) | {"local_theta": theta}


def _write_ropes(fields: Fields, shapes: Shapes) -> dict[str, Any]:
    base, said = fields["local_theta"], _GLOBAL.write(fields, shapes)
    local = {"rope_type": "default", "rope_theta": base}
    return said | {"rope_parameters": {LOCAL: local, GLOBAL: said["rope_parameters"]}, "rope_local_base_freq": base}


FIELDS = FieldMap(
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    entries=(
        *numbers("local_blocks", 4, 256, 1e-6),
        *fixed(),
        field("sliding_window", "window", default=4096),
        field("query_pre_attn_scalar", "score_dim", default=256, size=("local_blocks/attention/key", -1)),
        only("attn_logit_softcapping", None),
        only("final_logit_softcapping", None),
        Entry(("layer_types", "sliding_window_pattern", "_sliding_window_pattern"), _read_kinds, _write_kinds),
        Entry((*_GLOBAL.keys, "rope_local_base_freq"), _read_ropes, _write_ropes),
    ),
)
