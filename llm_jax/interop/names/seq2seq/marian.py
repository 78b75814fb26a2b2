"""Marian of Hugging Face, as OPUS-MT's models are: one table for both languages, positions that are computed."""

from typing import Any

from llm_jax.core.table import UserError, choices
from llm_jax.interop.fields import Entry, FieldMap, Fields, Json, Shapes, only
from llm_jax.interop.names import NameMap
from llm_jax.interop.names.seq2seq import post_norm

NAMES = NameMap(
    prefix="model.",
    outside=post_norm.OUTSIDE,
    copies=post_norm.COPIES,
    ignored=(post_norm.OLD, r"model\.(en|de)coder\.embed_positions\.weight"),
    rules=post_norm.rules(),
)

ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "swish": "swish", "silu": "swish"}  # theirs -> ours


def _read_activation(config: Json) -> Fields:
    said = config.get("activation_function", "gelu")
    if said not in ACTIVATIONS:
        raise UserError(f"activation_function={said!r} is not supported; this family does {choices(ACTIVATIONS)}")
    return {"activation": ACTIVATIONS[said]}


def _write_activation(fields: Fields, shapes: Shapes) -> dict[str, Any]:
    return {"activation_function": fields["activation"]}


def _check_vocabulary(config: Json) -> Fields:
    size = config.get("decoder_vocab_size")
    if size not in (None, config.get("vocab_size")):
        raise UserError(f"decoder_vocab_size={size} is not supported; both languages share one table")
    return {}


FIELDS = FieldMap(
    model_type="marian",
    architecture="MarianMTModel",
    parts=post_norm.parts,
    source=True,
    entries=(
        Entry(("activation_function",), _read_activation, _write_activation),
        Entry(("decoder_vocab_size",), _check_vocabulary, lambda fields, shapes: {}),
        only("share_encoder_decoder_embeddings", True),
        only("normalize_embedding", False),
        only("static_position_embeddings", True),
        *post_norm.fields(),
    ),
)
