"""Phi-3 of Hugging Face: Llama's names, with query, key and value in one kernel, and gate and up in another."""

from typing import Any

from llm_jax.interop.fields import Entry, FieldMap, Fields, Json, Shapes, field, harmless, only
from llm_jax.interop.names import NameMap
from llm_jax.interop.names.llama import LAYER, dense, norms, outside
from llm_jax.interop.names.rules import linear
from llm_jax.interop.rope import ORIGINAL, rope, rope_parameters

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


_ROPE = rope(kinds=("default", "longrope"))


def _read(config: Json) -> Fields:
    """Files have called longrope "su" and "yarn", and say the original context, by default 4096, beside it."""
    said = rope_parameters(config, 10_000.0)
    share = said.pop("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if said["rope_type"] in ("su", "yarn"):
        said["rope_type"] = "longrope"
    if said["rope_type"] == "longrope":
        said[ORIGINAL] = config.get(ORIGINAL, 4096)
    return _ROPE.read({**config, "rope_parameters": said}) | {"rotary": share}


def _write(fields: Fields, shapes: Shapes) -> dict[str, Any]:
    said, share = _ROPE.write(fields, shapes), {"partial_rotary_factor": fields.get("rotary", 1.0)}
    original = {ORIGINAL: fields["rope.original"]} if said["rope_scaling"] else {}
    return said | share | original | {"rope_parameters": said["rope_parameters"] | share}


FIELDS = FieldMap(
    model_type="phi3",
    architecture="Phi3ForCausalLM",
    entries=(
        *dense(eps=1e-5, wavelengths=Entry((*_ROPE.keys, "partial_rotary_factor", ORIGINAL), _read, _write)),
        field("sliding_window", "window", default=None),
        field("resid_pdrop", "dropout", default=0.0),
        only("attention_bias", False),
        harmless("embd_pdrop"),
    ),
)
