"""Texts in, vectors out: each text alone in its row, between the ids that its tokenizer puts around one."""

from collections.abc import Sequence

import jax
import numpy as np

from llm_jax.core.table import UserError
from llm_jax.core.types import Embeds, Model, Params
from llm_jax.text.base import Tokenizer

ROWS = 32  # texts of a batch
ANY_LENGTH = 1 << 30
STEP = 16  # rows are as long as a multiple of it, so that few lengths are compiled


def embedding(model: Model) -> Embeds:
    """Return a model that makes vectors of texts.

    Raises:
        UserError: this one does not.
    """
    if not isinstance(model, Embeds):
        raise UserError(
            f"model.name={type(model).__name__.lower()!r} makes no vectors; embed needs an encoder such as bert"
        )
    return model


def framed(tokenizer: Tokenizer, texts: Sequence[str], most: int) -> list[list[int]]:
    """Return the ids of each text, with those around it.

    Raises:
        UserError: a text has none, or more than `most`.
    """
    before, after = tokenizer.frame
    rows = [[*before, *ids.tolist(), *after] for ids in tokenizer.encode_batch(texts)]
    for text, row in zip(texts, rows, strict=True):
        if not row:
            raise UserError("a text is empty, and this tokenizer puts nothing around it; leave it out")
        if len(row) > most:
            raise UserError(f"the text {text[:40]!r}… has {len(row)} tokens; the model reads {most}: shorten it")
    return rows


def vectors(model: Model, params: Params, tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """Return the vector of each text, of length 1: float32 [N,D].

    Raises:
        UserError: the model makes none, or a text is empty or too long for it.
    """
    encoder = embedding(model)
    most = getattr(model, "max_positions", ANY_LENGTH)
    rows = framed(tokenizer, texts, most)
    order = np.argsort([len(row) for row in rows], kind="stable")  # so that texts of a batch are about as long
    run = jax.jit(encoder.embed)
    groups = [order[start : start + ROWS] for start in range(0, len(order), ROWS)]
    made = [np.asarray(run(params, _batch([rows[i] for i in group], most)))[: len(group)] for group in groups]
    return np.concatenate(made)[np.argsort(order)]


def _batch(rows: Sequence[Sequence[int]], most: int) -> dict[str, np.ndarray]:
    """Return rows as a batch; lengths, and the number of rows of many, are rounded up with padding."""
    length = min(-(-max(map(len, rows)) // STEP) * STEP, most)
    count = 1 << (len(rows) - 1).bit_length()
    tokens, segments = np.zeros((2, count, length), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], segments[i, : len(row)] = row, 1
    return {"tokens": tokens, "segments": segments}
