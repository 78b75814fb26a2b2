"""Beam search: the most probable texts that are found by keeping the `width` best beginnings at every length.

A text's score is log p(text | prompt) / n^length_penalty for n new tokens, the stop id included: the meaning that
`transformers` gives the penalty, not the ((5 + n) / 6)^α of Wu et al. 2016 (§7). 0 compares log-probabilities, 1 means
of them a token; above that, longer texts win. The search itself, its ways to stop and its results are those of
`transformers`' generate(num_beams=width), but that beginnings of probability 0 are never texts.

A row is searched as if it were alone: neither the other rows of a batch nor padding change what is found.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from llm_jax.core.table import UserError
from llm_jax.core.types import Cache, Decodes, Params
from llm_jax.decode.filters import NOTHING
from llm_jax.decode.prompts import ALL, Prompts, aligned, bucket, check_prompts, check_sources
from llm_jax.decode.sample import check_numbers, layout, unrolled, unstacked
from llm_jax.mesh import hosts

LARGEST = 69.0  # logarithm of what log-probabilities are divided or multiplied by at most: scores are float32

STOPPING = {
    "full": "as soon as `width` texts have ended (early_stopping=True of transformers)",
    "likely": "or before, where no beginning, ended now, would beat the worst of them (early_stopping=False)",
    "sure": "only where no beginning can beat the worst of them, however it goes on (early_stopping='never')",
}


@dataclass(frozen=True)
class Beams:
    """How texts are searched for.

    width: beginnings that are kept. length_penalty: see the module. stopping: a key of `STOPPING`, when to stop before
    the longest text; a beginning can gain by going on only where length_penalty is above 0.
    """

    width: int = 4
    length_penalty: float = 1.0
    stopping: str = "likely"

    def __post_init__(self) -> None:
        if isinstance(self.width, bool) or not isinstance(self.width, int) or not 1 <= self.width < 2**16:
            raise UserError(f"sample.beams={self.width!r} must be a whole number from 1 to 65535")
        penalty = self.length_penalty
        number = isinstance(penalty, int | float) and not isinstance(penalty, bool)
        if not number or not -100 <= penalty <= 100:
            raise UserError(f"sample.length_penalty={penalty!r} must be a number from -100 to 100; 0 is none")
        if self.stopping not in STOPPING:
            raise UserError(f"sample.stopping={self.stopping!r} must be one of: {', '.join(STOPPING)}")


class Found(NamedTuple):
    """A text that was found: its new ids, the stop id included if it came, and its score."""

    ids: list[int]
    score: float


class Rules(NamedTuple):
    """What may differ from call to call. stops: ids that end a text. limit: new tokens of the longest text."""

    stops: Int[Any, "K"]
    limit: Int[Any, ""]
    vocab_size: Int[Any, ""]
    length_penalty: Float[Any, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ended:
    """The best W texts of each row so far, best first; those that are not there score -inf."""

    ids: Int[Array, "B W N"]
    lengths: Int[Array, "B W"]
    scores: Float[Array, "B W"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Progress:
    """What the loop carries.

    count: new tokens of every beginning. ids, log_prob: of the W beginnings of each row, the best first; -inf where
    there are fewer. going: rows that are still searched. cache: of B · W rows, beginnings of a row together.
    """

    count: Int[Array, ""]
    ids: Int[Array, "B W N"]
    log_prob: Float[Array, "B W"]
    ended: Ended
    going: Bool[Array, "B"]
    cache: Cache


def search(
    model: Decodes,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    beams: Beams | None = None,
    sources: Sequence[Sequence[int]] | None = None,
    num: int = 1,
    stop_ids: Sequence[int] = (),
    vocab_size: int | None = None,
) -> list[list[Found]]:
    """Return the `num` best texts that were found for each prompt, the best first.

    There are fewer where a tiny vocabulary has fewer texts. Equal scores are in the order in which they were found.

    Args:
        model: any member of `Decodes`, whose cache has `take` and `reorder` as those of nn/cache.py.
        params: its parameters, or what `decode.sample.unstacked` made of them.
        prompts: ids, at least one each; of an encoder-decoder, what its decoder starts with.
        max_new_tokens: a text has at most so many, and is taken as ended there.
        beams: default `Beams()`.
        sources: of an encoder-decoder, the ids that it reads for each prompt.
        num: at most `beams.width`.
        stop_ids: the ids that end a text.
        vocab_size: only ids below it are written, with probabilities among these; default all.

    Raises:
        UserError: as `decode.sample.stream`; also where `num` is above the width.
    """
    beams = beams or Beams()
    check_numbers(max_new_tokens=max_new_tokens, num=num, vocab_size=vocab_size)
    if num > beams.width:
        raise UserError(
            f"sample.num={num} is above sample.beams={beams.width}, the texts that are kept; widen the beams"
        )
    if abs(beams.length_penalty) * math.log(max_new_tokens) > LARGEST:
        raise UserError(
            f"sample.length_penalty={beams.length_penalty} is beyond what scores of {max_new_tokens} tokens can hold; "
            f"give one within ±{math.floor(LARGEST / math.log(max_new_tokens))}, or fewer tokens"
        )
    check_prompts(model, prompts, max_new_tokens)
    check_sources(model, prompts, sources)
    slots = getattr(model, "max_positions", ALL)
    stops = sorted(set(stop_ids))
    rules = Rules(
        stops=np.array(stops + [-1] * (bucket(max(1, len(stops)), 1) - len(stops)), np.int32),
        limit=np.int32(max_new_tokens),
        vocab_size=np.int32(ALL if vocab_size is None else vocab_size),
        length_penalty=np.float32(beams.length_penalty),
    )
    rows = aligned(prompts, slots, sources)
    params = unstacked(model, params)
    with unrolled():
        ended = _search(
            model, params, rows, rules, width=beams.width, slots=min(bucket(max_new_tokens), slots),
            stopping=beams.stopping, layout=layout(),
        )  # fmt: skip
    ids, lengths, scores = map(hosts.whole, (ended.ids, ended.lengths, ended.scores))
    return [
        [
            Found(ids[row, i, : lengths[row, i]].tolist(), float(scores[row, i]))
            for i in range(num)
            if scores[row, i] > NOTHING
        ]
        for row in range(len(prompts))
    ]


@partial(jax.jit, static_argnames=("model", "width", "slots", "stopping", "layout"))
def _search(
    model: Decodes, params: Params, prompts: Prompts, rules: Rules, *, width: int, slots: int, stopping: str,
    layout: Hashable,
) -> Ended:  # fmt: skip
    """Read each prompt once, then go on with `width` rows of each."""
    (rows, length), W = prompts.tokens.shape, width
    outputs, cache = model.prefill(params, prompts.batch, model.empty_cache(rows, length + slots))
    logits = jnp.repeat(outputs.head(outputs.hidden[:, -1]), W, axis=0)
    ids = jnp.zeros((rows, W, slots), jnp.int32)
    nowhere = jnp.full((rows, W), NOTHING)
    progress = Progress(
        count=jnp.int32(0),
        ids=ids,
        log_prob=nowhere.at[:, 0].set(0.0),  # or all would go on alike
        ended=Ended(ids, jnp.zeros((rows, W), jnp.int32), nowhere),
        going=(prompts.segments > 0).any(axis=1),
        cache=cache.take(jnp.repeat(jnp.arange(rows), W)),
    )
    grow = partial(_grow, rules=rules, stopping=stopping)

    def step(now: Progress) -> Progress:
        last = jax.lax.dynamic_slice_in_dim(now.ids.reshape(rows * W, slots), now.count - 1, 1, axis=1)
        outputs, cache = model.extend(params, last, now.cache)
        return grow(replace(now, cache=cache), outputs.head(outputs.hidden[:, -1]))

    done = jax.lax.while_loop(lambda now: (now.count < rules.limit) & now.going.any(), step, grow(progress, logits))
    return done.ended


def _grow(now: Progress, logits: Float[Array, "BW V"], rules: Rules, stopping: str) -> Progress:
    """Take the best tokens after all beginnings of a row: some end a text, the best others are the new beginnings."""
    (B, W), V = now.log_prob.shape, logits.shape[-1]
    logits = jnp.where(jnp.arange(V) < rules.vocab_size, logits, NOTHING)
    total = now.log_prob[:, :, None] + jax.nn.log_softmax(logits).reshape(B, W, V)
    candidates = min(W * (1 + len(rules.stops)), W * V)  # so many that W of them do not end
    log_prob, place = jax.lax.top_k(total.reshape(B, W * V), candidates)
    parent, token = place // V, (place % V).astype(jnp.int32)
    count = now.count + 1
    ids = jax.lax.dynamic_update_slice_in_dim(_chosen(now.ids, parent), token[:, :, None], now.count, axis=2)
    ends = (token[:, :, None] == rules.stops).any(axis=2) | (count == rules.limit)

    ended = _merged(now, ids, jnp.where(ends, log_prob, NOTHING), rules, stopping)
    log_prob, best = jax.lax.top_k(jnp.where(ends, NOTHING, log_prob), W)
    rows = jnp.arange(B)[:, None] * W + jnp.take_along_axis(parent, best, axis=1)
    return Progress(
        count=count,
        ids=_chosen(ids, best),
        log_prob=log_prob,
        ended=ended,
        going=now.going & _may_improve(log_prob[:, 0], ended, count, rules, stopping),
        cache=now.cache.reorder(rows.reshape(B * W)),
    )


def _merged(now: Progress, ids: Int[Array, "B C N"], log_prob: Float[Array, "B C"], rules: Rules, stopping: str):
    """Put what ends among the W best candidates with what had ended, and keep the W best."""
    W, count = now.log_prob.shape[1], now.count + 1
    scores = jnp.where(now.going[:, None], log_prob[:, :W] / count**rules.length_penalty, NOTHING)
    lengths = jnp.full(scores.shape, count)
    both = [
        jnp.concatenate(pair, axis=1)
        for pair in ((now.ended.scores, scores), (now.ended.ids, ids[:, :W]), (now.ended.lengths, lengths))
    ]
    kept, best = jax.lax.top_k(both[0], W)
    return Ended(_chosen(both[1], best), jnp.take_along_axis(both[2], best, axis=1), kept)


def _may_improve(
    log_prob: Float[Array, "B"], ended: Ended, count: Int[Array, ""], rules: Rules, stopping: str
) -> Bool[Array, "B"]:
    """Whether a row is searched further, whose best beginning has this log-probability."""
    worst = ended.scores.min(axis=1)  # -inf while fewer than W have ended
    longest = jnp.where(rules.length_penalty > 0, rules.limit, count) if stopping == "sure" else count
    better = log_prob / longest**rules.length_penalty > worst
    return better & (worst == NOTHING) if stopping == "full" else better


def _chosen(parts: Array, index: Int[Array, "B C"]) -> Array:
    """Return of parts [B,W,N] those of each row with these numbers: [B,C,N]."""
    return jnp.take_along_axis(parts, index[:, :, None], axis=1)
