"""RoBERTa of Hugging Face, whose first token is at row 2 of its table of positions.

It counts positions from `pad_token_id` + 1, which is 2 in every published model: rows 0 and 1 are of padding and of
nothing, so that they are left out here and are zeros abroad, and 514 rows are 512 positions. It also takes each token
of the id 1 for padding when it counts; here only `segments` say what is padding.
"""

from llm_jax.core.table import UserError
from llm_jax.interop.fields import Entry, FieldMap, Fields, Json, Shapes, only
from llm_jax.interop.names import NameMap
from llm_jax.interop.names.encoder import parts
from llm_jax.interop.names.rules import after

P = "roberta."
FIRST = 2  # the row of the first position

NAMES = NameMap(
    prefix=P,
    outside=("lm_head.",),
    ignored=(r"roberta\.embeddings\.(position_ids|token_type_ids)",),
    copies={
        "lm_head.decoder.weight": f"{P}embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    old=parts.OLD,
    rules=(
        *parts.encoder(P),
        after(f"{P}embeddings.position_embeddings.weight", "embed/positions", FIRST),
        *parts.head("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
    ),
)

CLASSES = {(True, False): "RobertaForMaskedLM", (False, True): "RobertaModel", (False, False): "RobertaModel"}
FOUND, CLASS = parts.parts("lm_head.", named=CLASSES)


def _read(config: Json) -> Fields:
    rows = config.get("max_position_embeddings", 512)
    if rows <= FIRST:
        raise UserError(f"max_position_embeddings={rows} leaves no position: the first is row {FIRST}")
    return {"max_positions": rows - FIRST}


def _write(fields: Fields, shapes: Shapes) -> dict[str, int]:
    return {"max_position_embeddings": fields["max_positions"] + FIRST}


FIELDS = FieldMap(
    model_type="roberta",
    architecture="RobertaForMaskedLM",
    parts=FOUND,
    entries=(
        CLASS,
        Entry(("max_position_embeddings",), _read, _write),
        only("pad_token_id", FIRST - 1),
        *parts.fields(1e-12, 2),
    ),
)
