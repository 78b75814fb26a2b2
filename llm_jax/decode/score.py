"""How probable given continuations are: the sum of log p of each one's tokens, for suites that rank answers."""

from collections.abc import Hashable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from llm_jax.core.table import UserError
from llm_jax.core.types import Array, Batch, Model, Params
from llm_jax.decode.prompts import bucket, check_prompts
from llm_jax.decode.sample import layout
from llm_jax.kernels.cross_entropy import chunked


class Score(NamedTuple):
    """For each row: the log-probability of the continuation, in nats, and the number of its tokens."""

    log_prob: np.ndarray
    length: np.ndarray


def score(
    model: Model, params: Params, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
) -> Score:
    """Return log p(continuation | prompt), a row each, from one pass over the whole texts.

    Rows are one batch, filled up to the buckets of `prompts`; a caller with many rows gives them in parts.

    Raises:
        UserError: an empty prompt or continuation, unequal numbers of them, an id outside the vocabulary, or a text
            that is longer than the model's positions.
    """
    if len(prompts) != len(continuations):
        raise UserError(f"{len(prompts)} prompts and {len(continuations)} continuations; give one of each a row")
    check_prompts(model, prompts, 0)
    check_prompts(model, continuations, 0, what="continuation")
    texts = [[*prompt, *more] for prompt, more in zip(prompts, continuations, strict=True)]
    check_prompts(model, [text[:-1] for text in texts], 0)
    length = np.array([len(more) for more in continuations], np.int32)
    log_prob = _log_prob(model, params, _batch(model, texts, length), layout=layout())
    return Score(np.asarray(log_prob)[: len(texts)], length)


def _batch(model: Model, texts: list[list[int]], length: np.ndarray) -> Batch:
    """Return left-aligned rows whose weights are 1 where a token of the continuation is predicted."""
    width = min(bucket(max(map(len, texts)) - 1), getattr(model, "max_positions", np.iinfo(np.int32).max))
    shape = (bucket(len(texts), 1), width)
    batch = {name: np.zeros(shape, np.int32) for name in ("tokens", "targets", "segments")}
    batch["weights"] = np.zeros(shape, np.float32)
    for row, text in enumerate(texts):
        last = len(text) - 1
        batch["tokens"][row, :last], batch["targets"][row, :last] = text[:-1], text[1:]
        batch["segments"][row, :last] = 1
        batch["weights"][row, last - length[row] : last] = 1
    return batch


@partial(jax.jit, static_argnames=("model", "layout"))
def _log_prob(model: Model, params: Params, batch: Batch, *, layout: Hashable) -> Array:
    outputs = model.apply(params, {name: batch[name] for name in ("tokens", "segments")})
    nll = chunked(outputs.head, outputs.hidden, batch["targets"]).nll
    return -(nll * batch["weights"]).sum(axis=1)
