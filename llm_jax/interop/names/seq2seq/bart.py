"""BART of Hugging Face, whose first token is at row 2 of its tables of positions; the two rows before are not used."""

from llm_jax.interop.fields import FieldMap, field, only
from llm_jax.interop.names import NameMap
from llm_jax.interop.names.encoder.parts import norm
from llm_jax.interop.names.rules import after
from llm_jax.interop.names.seq2seq import post_norm

FIRST = 2  # the row of the first position

NAMES = NameMap(
    prefix="model.",
    outside=post_norm.OUTSIDE,
    copies=post_norm.COPIES,
    ignored=(post_norm.OLD,),
    rules=(
        *post_norm.rules(),
        *(
            rule
            for side in ("encoder", "decoder")
            for rule in (
                after(f"model.{side}.embed_positions.weight", f"{side}_embed/positions", FIRST),
                *norm(f"model.{side}.layernorm_embedding", f"{side}_embed/norm"),
            )
        ),
    ),
)

FIELDS = FieldMap(
    model_type="bart",
    architecture="BartForConditionalGeneration",
    parts=post_norm.parts,
    source=True,
    entries=(
        field("max_position_embeddings", "max_positions", default=1024),
        only("activation_function", "gelu"),
        only("normalize_embedding", True),
        only("static_position_embeddings", False),
        *post_norm.fields(),
    ),
)
