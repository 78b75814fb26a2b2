"""What the fields of encoder-decoders share: keys that come once for each side."""

from typing import Any

from llm_jax.core.table import UserError
from llm_jax.interop.fields import REQUIRED, Entry, Fields, Json, Shapes, harmless

DECODING = harmless(
    "bad_words_ids", "early_stopping", "forced_bos_token_id", "force_bos_token_to_be_generated", "length_penalty",
    "max_length", "min_length", "no_repeat_ngram_size", "num_beams", "output_past", "prefix", "tokenizer_class",
)  # fmt: skip
"""Keys of old files about generation, of which `generation_config.json` says more."""


def layers(encoder: str, decoder: str, default: int) -> Entry:
    """The numbers of layers, by their keys; the decoder's, where it is missing, is the encoder's."""

    def read(config: Json) -> Fields:
        first = config.get(encoder, default)
        return {"encoder_layers": first, "num_layers": first if config.get(decoder) is None else config[decoder]}

    def write(fields: Fields, shapes: Shapes) -> dict[str, Any]:
        return {encoder: fields.get("encoder_layers") or fields["num_layers"], decoder: fields["num_layers"]}

    return Entry((encoder, decoder), read, write)


def alike(ours: str, *theirs: str, default: Any = REQUIRED, size: tuple[str, int] | None = None) -> Entry:
    """One field for a size that is the same on both sides; default, size: as of `fields.field`."""

    def read(config: Json) -> Fields:
        found = {key: config.get(key, default) for key in theirs}
        if REQUIRED in found.values():
            raise UserError(f"{theirs[0]} is missing")
        if len(set(found.values())) > 1:
            raise UserError(f"{found} is not supported; this family does both sides alike")
        return {ours: found[theirs[0]]}

    def write(fields: Fields, shapes: Shapes) -> dict[str, Any]:
        value = fields.get(ours)
        if value is None and size:
            value = next(shape[size[1]] for path, shape in shapes.items() if path.endswith(size[0]))
        return dict.fromkeys(theirs, value)

    return Entry(theirs, read, write)
