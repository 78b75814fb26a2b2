"""T5 and T5 v1.1 of Hugging Face: one table of biases a side, that of its first block; no biases else.

v1.0 has one table for input, output and both sides, v1.1 an `lm_head` of its own, and then logits are not scaled.
transformers 5 takes every T5 for tied, and unties it on finding both tables; what it saves of v1.1 has
`scale_decoder_outputs=False`.
"""

from typing import Any

from llm_jax.core.table import UserError
from llm_jax.interop.fields import Entry, FieldMap, Fields, Json, Shapes, field, harmless
from llm_jax.interop.names import NameMap
from llm_jax.interop.names.rules import Rule, linear, same
from llm_jax.interop.names.seq2seq.sides import DECODING, layers

KERNELS = (("q", "query", 1), ("k", "key", 1), ("v", "value", 1), ("o", "out", 2))


def _block(side: str, parts: dict[str, str], mlp: int) -> tuple[Rule, ...]:
    """Rules of one side's blocks: {part of ours: part of theirs}, each with a norm, and the mlp at place `mlp`."""
    stack, layer = f"{side}_blocks", f"{side}.block.{{layer}}.layer"
    norms = {f"{part}_norm": place for place, part in enumerate(parts)} | {"mlp_norm": mlp}
    dense = f"{layer}.{mlp}.DenseReluDense"
    return (
        *(
            linear(f"{layer}.{place}.{theirs}.{short}.weight", f"{stack}/{ours}/{name}", inputs=inputs)
            for place, (ours, theirs) in enumerate(parts.items())
            for short, name, inputs in KERNELS
        ),
        *(same(f"{layer}.{place}.layer_norm.weight", f"{stack}/{norm}/scale") for norm, place in norms.items()),
        linear(f"{dense}.wi.weight", f"{stack}/mlp/inner"),
        linear(f"{dense}.wi_0.weight", f"{stack}/mlp/gate"),
        linear(f"{dense}.wi_1.weight", f"{stack}/mlp/up"),
        linear(f"{dense}.wo.weight", f"{stack}/mlp/down"),
        same(f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", f"{side}_bias/buckets"),
        same(f"{side}.final_layer_norm.weight", f"{side}_norm/scale"),
    )


NAMES = NameMap(
    ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),  # of old files
    copies={f"{name}.weight": "shared.weight" for name in ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head")},
    rules=(
        same("shared.weight", "embed/tokens"),
        *_block("encoder", {"attention": "SelfAttention"}, 1),
        *_block("decoder", {"attention": "SelfAttention", "cross": "EncDecAttention"}, 2),
        same("lm_head.weight", "head/tokens"),
    ),
)

GATED = {"relu": False, "gated-gelu": True}


def _read_mlp(config: Json) -> Fields:
    said = config.get("feed_forward_proj", "relu")
    if said not in GATED:
        raise UserError(f"feed_forward_proj={said!r} is not supported; this family does {', '.join(GATED)}")
    return {"gated": GATED[said]}


def _write_mlp(fields: Fields, shapes: Shapes) -> dict[str, Any]:
    return {"feed_forward_proj": next(name for name, gated in GATED.items() if gated == fields["gated"])}


def _read_tied(config: Json) -> Fields:
    return {"tied": config.get("scale_decoder_outputs", config.get("tie_word_embeddings", True))}


FIELDS = FieldMap(
    model_type="t5",
    architecture="T5ForConditionalGeneration",
    context="n_positions",
    source=True,
    entries=(
        field("vocab_size", "vocab_size"),
        layers("num_layers", "num_decoder_layers", default=6),
        field("d_model", "embed_dim", default=512),
        field("num_heads", "num_heads", default=8),
        field("d_kv", "head_dim", default=64, size=("attention/query", -1)),
        field("d_ff", "mlp_dim", default=2048, size=("decoder_blocks/mlp/down", 1)),
        field("relative_attention_num_buckets", "buckets", default=32),
        field("relative_attention_max_distance", "furthest", default=128),
        Entry(("feed_forward_proj",), _read_mlp, _write_mlp),
        Entry(
            ("scale_decoder_outputs", "tie_word_embeddings"),
            _read_tied,
            lambda fields, shapes: {"tie_word_embeddings": fields["tied"]},
        ),
        field("dropout_rate", "dropout", default=0.1),
        field("layer_norm_epsilon", "norm_eps", default=1e-6),
        harmless("dense_act_fn", "is_gated_act", "initializer_factor"),
        DECODING,
    ),
)
