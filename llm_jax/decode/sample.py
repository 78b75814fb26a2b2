"""Continue prompts with a model's cache: one compiled loop for all prompt lengths and numbers of tokens of a bucket.

A continuation is a function of (params, prompt, settings, seed, number of the sample) alone: the draw for a token folds
the prompt, the number of the sample and the token's index into the key, so that neither the other rows of a batch, nor
their order, nor the buckets change it.
"""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from llm_jax.core import keys
from llm_jax.core.table import UserError
from llm_jax.core.types import Cache, Decodes, Params
from llm_jax.decode.filters import NOTHING, Knobs, Sampling, draw, repetition, truncate
from llm_jax.decode.prompts import ALL, Prompts, aligned, bucket, check_prompts, check_sources
from llm_jax.mesh import hosts, plan
from llm_jax.nn.stack import unroll_by_default, unstack

UNROLLED = 64  # layers of a stack in the loop on CPU: one token's time is that of reading the weights, in place


class Rules(NamedTuple):
    """What may differ from call to call. stops: ids that end a row, -1 for none. vocab_size: only ids below it."""

    seed: Int[Any, ""]
    knobs: Knobs
    stops: Int[Any, "K"]
    vocab_size: Int[Any, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Progress:
    """What the loop carries.

    count: tokens made a row. ids: all of them. lengths: how many count, which stops once a row is done.
    seen: the ids of a row's text, for the repetition penalty. key: one a row.
    """

    count: Int[Array, ""]
    ids: Int[Array, "B N"]
    lengths: Int[Array, "B"]
    done: Bool[Array, "B"]
    seen: Bool[Array, "B V"]
    key: Array
    cache: Cache


def generate(model: Decodes, params: Params, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
    """Return the ids that continue each prompt; arguments and errors are those of `stream`."""
    rows: list[list[int]] = []
    for piece in stream(model, params, prompts, **{"chunk": ALL, **options}):
        rows = [row + new for row, new in zip(rows, piece, strict=True)] if rows else piece
    return rows


def stream(
    model: Decodes,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sources: Sequence[Sequence[int]] | None = None,
    settings: Sampling | None = None,
    seed: int = 0,
    num: int = 1,
    eos_id: int | None = None,
    stop_ids: Sequence[int] = (),
    vocab_size: int | None = None,
    chunk: int = 4,
) -> Iterator[list[list[int]]]:
    """Return an iterator over the next ids of every row, as they are made.

    Args:
        model: any member of `Decodes`.
        params: its parameters, or what `unstacked` made of them, which saves many calls a copy each.
        prompts: ids, at least one each; the lengths may differ. Of an encoder-decoder, what its decoder starts with.
        max_new_tokens: so many ids a row, or fewer where a stop id is drawn, which is then the last one.
        sources: of an encoder-decoder, the ids that it reads for each prompt.
        settings: how a token is drawn; default `Sampling()`.
        seed: the same seed continues the same prompt in the same way.
        num: continuations of each prompt; they follow each other in the result.
        eos_id, stop_ids: the ids that end a row.
        vocab_size: only ids below it are drawn; default all (a table may have more rows than a tokenizer has ids).
        chunk: ids made between two looks from the host; the first one comes at once.

    Raises:
        UserError: no prompt, an empty one, an id outside the vocabulary, more positions than the model has, or a
            number below its range.
    """
    settings = settings or Sampling()
    check_numbers(max_new_tokens=max_new_tokens, num=num, chunk=chunk, seed=seed, vocab_size=vocab_size)
    check_prompts(model, prompts, max_new_tokens)
    check_sources(model, prompts, sources)
    slots = getattr(model, "max_positions", ALL)
    rows = aligned(prompts, slots, sources, num)
    stops = [*([] if eos_id is None else [eos_id]), *stop_ids]
    rules = Rules(
        seed=np.uint32(seed),
        knobs=settings.rows(len(rows.tokens)),
        stops=np.array(stops + [-1] * (bucket(len(stops), 4) - len(stops)), np.int32),
        vocab_size=np.int32(ALL if vocab_size is None else vocab_size),
    )
    static = {"greedy": settings.greedy, "layout": layout()}
    params = unstacked(model, params)
    with unrolled():
        progress = _start(model, params, rows, rules, slots=min(bucket(max_new_tokens), slots), **static)
    proceed = partial(_proceed, model, params, rules=rules, **static)
    return _pieces(proceed, progress, len(prompts) * num, max_new_tokens, chunk)


def _pieces(proceed, progress: Progress, rows: int, limit: int, chunk: int) -> Iterator[list[list[int]]]:
    shown, until = 0, 1
    while True:
        ids, lengths, done = map(hosts.whole, (progress.ids, progress.lengths, progress.done))
        yield [ids[row, shown : lengths[row]].tolist() for row in range(rows)]
        shown, until = until, min(until + chunk, limit)
        if shown == limit or done.all():
            return
        with unrolled():
            progress = proceed(progress=progress, until=np.int32(until))


def unrolled() -> AbstractContextManager[plan.Plan]:
    """The active plan with deep stacks unrolled too."""
    return replace(plan.current(), unrolled=UNROLLED).active()


def unstacked(model: Decodes, params: Params) -> Params:
    """Return the parameters with every stack that the loop unrolls as a tuple of layers.

    Taking a layer out of a stack within the loop would copy all weights for every token; here they are copied once.
    """
    depth = {path.split("/")[0]: d.shape[0] for path, d in model.declarations().items() if d.axes[:1] == ("layer",)}
    with unrolled():
        short = {name for name, layers in depth.items() if unroll_by_default(layers)}
    return {
        name: _unstack(part) if name in short and not isinstance(part, tuple) else part for name, part in params.items()
    }


_unstack = jax.jit(unstack)


@partial(jax.jit, static_argnames=("model", "slots", "greedy", "layout"))
def _start(
    model: Decodes, params: Params, prompts: Prompts, rules: Rules, *, slots: int, greedy: bool, layout: Hashable
) -> Progress:
    """Read the prompts and draw the first of at most `slots` tokens."""
    rows, width = prompts.tokens.shape
    real = prompts.segments > 0
    cache = model.empty_cache(rows, width + slots)
    outputs, cache = model.prefill(params, prompts.batch, cache)
    logits = outputs.head(outputs.hidden[:, -1])
    base = jax.random.key(rules.seed)
    progress = Progress(
        count=jnp.int32(0),
        ids=jnp.zeros((rows, slots), jnp.int32),
        lengths=jnp.zeros(rows, jnp.int32),
        done=~real.any(axis=1),
        seen=jnp.zeros(logits.shape, bool).at[jnp.arange(rows)[:, None], prompts.tokens].max(real),
        key=jax.vmap(lambda row: keys.fold(jax.random.fold_in(base, row[0]), "sample", row[1]))(prompts.draws),
        cache=cache,
    )
    return _append(progress, logits, rules, greedy)


@partial(jax.jit, static_argnames=("model", "greedy", "layout"), donate_argnames="progress")
def _proceed(
    model: Decodes, params: Params, *, progress: Progress, rules: Rules, until: Array, greedy: bool, layout: Hashable
) -> Progress:
    """Go on until every row has `until` tokens or is done."""

    def step(now: Progress) -> Progress:
        last = jax.lax.dynamic_slice_in_dim(now.ids, now.count - 1, 1, axis=1)
        outputs, cache = model.extend(params, last, now.cache)
        return _append(replace(now, cache=cache), outputs.head(outputs.hidden[:, -1]), rules, greedy)

    return jax.lax.while_loop(lambda now: (now.count < until) & ~now.done.all(), step, progress)


def _append(progress: Progress, logits: Float[Array, "B V"], rules: Rules, greedy: bool) -> Progress:
    """Draw each row's next token and write it down."""
    logits = jnp.where(jnp.arange(logits.shape[-1]) < rules.vocab_size, logits, NOTHING)
    logits = repetition(logits, progress.seen, rules.knobs.repetition_penalty)
    token = _draw(logits, progress, rules.knobs, greedy).astype(jnp.int32)
    return replace(
        progress,
        count=progress.count + 1,
        ids=jax.lax.dynamic_update_slice_in_dim(progress.ids, token[:, None], progress.count, axis=1),
        lengths=progress.lengths + ~progress.done,
        done=progress.done | (token[:, None] == rules.stops).any(axis=1),
        seen=progress.seen.at[jnp.arange(len(token)), token].set(True),
    )


def _draw(logits: Float[Array, "B V"], progress: Progress, knobs: Knobs, greedy: bool) -> Int[Array, "B"]:
    if greedy:
        return jnp.argmax(logits, axis=-1)
    uniform = jax.vmap(lambda key: jax.random.uniform(keys.fold(key, "token", progress.count), (2,)))(progress.key)
    return draw(truncate(logits, knobs), uniform)


def layout() -> Hashable:
    """Return what a trace reads from the active plan beside its mesh, which is part of jax's own key."""
    active = plan.current()
    return str(jnp.dtype(active.compute_dtype)), tuple(sorted(active.rules.items()))


def check_numbers(**numbers: int | None) -> None:
    """Refuse what is no whole number above zero, or of a seed at least zero; None passes."""
    for name, value in numbers.items():
        least = 0 if name == "seed" else 1
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if value is not None and not (whole and least <= value < 2**32):
            raise UserError(f"sample.{name}={value!r} must be a whole number, at least {least} and below 2**32")
