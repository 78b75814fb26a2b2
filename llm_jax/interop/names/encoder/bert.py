"""BERT of Hugging Face, with any of its heads that we have; the encoder alone is `BertModel`."""

from llm_jax.interop.fields import FieldMap, field
from llm_jax.interop.names import NameMap
from llm_jax.interop.names.encoder import parts
from llm_jax.interop.names.rules import linear, same, vector

P, C = "bert.", "cls.predictions"
ORDER = "cls.seq_relationship"

NAMES = NameMap(
    prefix=P,
    outside=("cls.",),
    ignored=(r"bert\.embeddings\.(position_ids|token_type_ids)",),
    copies={
        f"{C}.decoder.weight": f"{P}embeddings.word_embeddings.weight",
        f"{C}.decoder.bias": f"{C}.bias",
    },
    old=parts.OLD,
    rules=(
        *parts.encoder(P),
        same(f"{P}embeddings.position_embeddings.weight", "embed/positions"),
        *parts.head(f"{C}.transform.dense", f"{C}.transform.LayerNorm", f"{C}.bias"),
        linear(f"{ORDER}.weight", "pooler/order"),
        vector(f"{ORDER}.bias", "pooler/order_bias"),
    ),
)

CLASSES = {
    (True, True): "BertForPreTraining",
    (True, False): "BertForMaskedLM",
    (False, True): "BertModel",
    (False, False): "BertModel",
}
FOUND, CLASS = parts.parts("cls.predictions.", f"{ORDER}.weight", named=CLASSES)

FIELDS = FieldMap(
    model_type="bert",
    architecture="BertForMaskedLM",
    parts=FOUND,
    entries=(CLASS, field("max_position_embeddings", "max_positions", default=512), *parts.fields(1e-12, 2)),
)
