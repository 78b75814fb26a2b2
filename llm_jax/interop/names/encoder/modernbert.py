"""ModernBERT of Hugging Face: query, key and value in one kernel, the two halves of a gated MLP in another."""

from typing import Any

from llm_jax.core.table import UserError
from llm_jax.interop.fields import Entry, FieldMap, Fields, Json, Shapes, field, harmless, only
from llm_jax.interop.names import NameMap
from llm_jax.interop.names.rules import Rule, linear, same

LAYER = "model.layers.{layer}"
LOCAL, GLOBAL = "sliding_attention", "full_attention"
OURS = {GLOBAL: ("theta", 160_000.0, "global_rope_theta"), LOCAL: ("local_theta", 10_000.0, "local_rope_theta")}


def _block(stack: str) -> tuple[Rule, ...]:
    attention = (f"{stack}/attention/{name}" for name in ("query", "key", "value"))
    return (
        linear(f"{LAYER}.attn.Wqkv.weight", *attention),
        linear(f"{LAYER}.attn.Wo.weight", f"{stack}/attention/out", inputs=2),
        same(f"{LAYER}.mlp_norm.weight", f"{stack}/mlp_norm/scale"),
        linear(f"{LAYER}.mlp.Wi.weight", f"{stack}/mlp/gate", f"{stack}/mlp/up"),
        linear(f"{LAYER}.mlp.Wo.weight", f"{stack}/mlp/down"),
    )


NAMES = NameMap(
    prefix="model.",
    outside=("head.", "decoder."),
    copies={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
    rules=(
        same("model.embeddings.tok_embeddings.weight", "embed/tokens"),
        same("model.embeddings.norm.weight", "embed/norm/scale"),
        *_block("first_blocks"),
        *(
            rule
            for stack in ("local_blocks", "global_blocks")
            for rule in (*_block(stack), same(f"{LAYER}.attn_norm.weight", f"{stack}/attention_norm/scale"))
        ),
        same("model.final_norm.weight", "final_norm/scale"),
        linear("head.dense.weight", "head/kernel"),
        same("head.norm.weight", "head/norm/scale"),
        same("decoder.bias", "head/bias"),
    ),
)


def _kinds(layers: int, every: int) -> list[str]:
    return [LOCAL if i % every else GLOBAL for i in range(layers)]


def _read_kinds(config: Json) -> Fields:
    every, found = config.get("global_attn_every_n_layers") or 3, config.get("layer_types")
    if found:
        every = next((i for i, kind in enumerate(found) if i and kind == GLOBAL), max(every, len(found)))
    if found and found != _kinds(len(found), every):
        raise UserError(f"layer_types={found} is not supported; this family does {GLOBAL} first, and in each so many")
    return {"global_every": every}


def _write_kinds(fields: Fields, shapes: Shapes) -> dict[str, Any]:
    every = fields["global_every"]
    return {"layer_types": _kinds(fields["num_layers"], every), "global_attn_every_n_layers": every}


def _read_ropes(config: Json) -> Fields:
    """Of a dialect that nests the kinds, or of one that has a key for each base."""
    if config.get("rope_scaling") is not None:
        raise UserError(f"rope_scaling={config['rope_scaling']!r} is not supported")
    nested, found = config.get("rope_parameters") or {}, {}
    for kind, (ours, usual, old) in OURS.items():
        said = nested.get(kind) or {}
        if said.get("rope_type", "default") != "default":
            raise UserError(f"rope_parameters of {kind}: rope_type={said['rope_type']!r} is not supported")
        found[ours] = said.get("rope_theta", config.get(old, usual))
    return found


def _write_ropes(fields: Fields, shapes: Shapes) -> dict[str, Any]:
    nested = {k: {"rope_type": "default", "rope_theta": fields[ours]} for k, (ours, *_) in OURS.items()}
    return {"rope_parameters": nested} | {old: fields[ours] for ours, _, old in OURS.values()}


FIELDS = FieldMap(
    model_type="modernbert",
    architecture="ModernBertForMaskedLM",
    entries=(
        field("vocab_size", "vocab_size"),
        field("num_hidden_layers", "num_layers", default=22),
        field("hidden_size", "embed_dim", default=768),
        field("num_attention_heads", "num_heads", default=12),
        field("intermediate_size", "mlp_dim", default=1152, size=("/mlp/up", -1)),
        field("local_attention", "window", default=128),
        field("norm_eps", "norm_eps", default=1e-5),
        Entry(("layer_types", "global_attn_every_n_layers"), _read_kinds, _write_kinds),
        Entry(("rope_parameters", "rope_scaling", "global_rope_theta", "local_rope_theta"), _read_ropes, _write_ropes),
        *(only(f"{part}_bias", False) for part in ("attention", "mlp", "norm", "classifier")),
        only("decoder_bias", True),
        only("hidden_activation", "gelu"),
        only("classifier_activation", "gelu"),
        only("tie_word_embeddings", True),
        harmless(
            "embedding_dropout", "mlp_dropout", "classifier_pooling", "initializer_cutoff_factor", "layer_norm_eps"
        ),
        harmless("deterministic_flash_attn", "sparse_prediction", "sparse_pred_ignore_index", "reference_compile"),
        harmless("cls_token_id", "position_embedding_type", "repad_logits_with_grad"),
    ),
)
