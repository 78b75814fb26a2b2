"""How probable given continuations are: the sum of log p of each one's tokens, for suites that rank answers."""

import math
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.core.table import UserError
from llm_jax.core.types import Array, Batch, Model, Params
from llm_jax.data.corrupt.prefix import before_targets
from llm_jax.decode.prompts import bucket, check_prompts
from llm_jax.decode.sample import layout
from llm_jax.mesh import hosts

TOKENS = 1024  # whose logits exist at once


class Score(NamedTuple):
    """For each row: the log-probability of the continuation in nats, its tokens, and whether each is the likeliest."""

    log_prob: np.ndarray
    length: np.ndarray
    greedy: np.ndarray


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
    found = _judged(model, params, _batch(model, texts, length), layout=layout())
    log_prob, greedy = (hosts.whole(x)[: len(texts)] for x in found)
    return Score(log_prob, length, greedy)


def _batch(model: Model, texts: list[list[int]], length: np.ndarray) -> Batch:
    """Return left-aligned rows whose weights are 1 where a token of the continuation is predicted."""
    width = min(bucket(max(map(len, texts)) - 1), getattr(model, "max_positions", np.iinfo(np.int32).max))
    batch = laid_out(texts, length, (bucket(len(texts), 1), width))
    return batch | {"prompt": before_targets(batch)}


def laid_out(texts: Sequence[Sequence[int]], length: Sequence[int] | np.ndarray, shape: tuple[int, int]) -> Batch:
    """Return tokens, targets, segments and weights [B,T] of texts, which have weight in their last `length` tokens."""
    batch = {name: np.zeros(shape, np.int32) for name in ("tokens", "targets", "segments")}
    batch["weights"] = np.zeros(shape, np.float32)
    for row, text in enumerate(texts):
        last = len(text) - 1
        batch["tokens"][row, :last], batch["targets"][row, :last] = text[:-1], text[1:]
        batch["segments"][row, :last] = 1
        batch["weights"][row, last - length[row] : last] = 1
    return batch


@partial(jax.jit, static_argnames=("model", "layout"))
def _judged(model: Model, params: Params, batch: Batch, *, layout: Hashable) -> tuple[Array, Array]:
    outputs = model.apply(params, {name: batch[name] for name in ("tokens", "segments", "prompt")})
    log_p, likeliest = _of_targets(outputs.head, outputs.hidden, batch["targets"])
    asked = batch["weights"] > 0
    return jnp.where(asked, log_p, 0).sum(axis=1), (likeliest | ~asked).all(axis=1)


def _of_targets(head: Callable[[Array], Array], hidden: Array, targets: Array) -> tuple[Array, Array]:
    """Return log p of each target and whether it is the likeliest, both [B,T]."""

    def piece(hidden: Array, targets: Array) -> tuple[Array, Array]:
        logits = head(hidden).astype(jnp.float32)
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return chosen - jax.nn.logsumexp(logits, axis=-1), logits.argmax(-1) == targets

    log_p, likeliest = (jnp.moveaxis(x, 0, 1).reshape(targets.shape) for x in in_pieces(piece, hidden, targets))
    return log_p, likeliest


def in_pieces(function: Callable[..., Any], *arrays: Array) -> Any:
    """Return a function of each piece of arrays [B,T,…] along T, results stacked: so that few logits exist at once."""
    B, T = arrays[0].shape[:2]
    count = math.gcd(T, bucket(max(1, B * T // TOKENS), 1))
    split = tuple(jnp.moveaxis(x.reshape(B, count, T // count, *x.shape[2:]), 1, 0) for x in arrays)
    return jax.lax.map(lambda xs: function(*xs), split)
