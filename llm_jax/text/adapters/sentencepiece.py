"""sentencepiece's own models (Kudo & Richardson 2018)."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from llm_jax.core.table import UserError
from llm_jax.text.adapters.files import ROLES, content_of, spaced_bytes
from llm_jax.text.base import Added, Files, Kind, Tokenizer

MODEL = "tokenizer.model"


def make(texts: Iterable[str], *, path: str) -> Files:
    """Read a sentencepiece `.model` file."""
    return {MODEL: content_of(path)}


def read(files: Files) -> Tokenizer:
    """Return a sentencepiece model; its own normaliser applies, so that decoding gives the normalised text."""
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise UserError("data.tokenizer.name='sentencepiece' needs `pip install sentencepiece`") from None
    model = SentencePieceProcessor()
    try:
        model.LoadFromSerializedProto(files[MODEL])
    except (RuntimeError, KeyError) as error:
        raise UserError(f"{MODEL} is not a sentencepiece model: {error}") from None
    silent = [model.IsControl(i) or model.IsUnknown(i) or model.IsUnused(i) for i in range(model.GetPieceSize())]
    controls: Any = {f"{role}_id": i if (i := getattr(model, f"{role}_id")()) >= 0 else None for role in ROLES}
    return Tokenizer(
        kind="sentencepiece",
        files=files,
        vocabulary=[b"" if quiet else spaced_bytes(model.IdToPiece(i)) for i, quiet in enumerate(silent)],
        to_ids=lambda text: np.array(model.EncodeAsIds(text), np.int32),
        to_text=model.DecodeIds,
        joins=False,
        added={model.IdToPiece(i): Added(i) for i in range(model.GetPieceSize()) if model.IsControl(i)},
        **controls,
    )


SENTENCEPIECE = Kind(make, read, trains=False)
