"""Texts that a model writes after prompts: whole, searched for, piece by piece, and between two others."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from llm_jax.core import keys
from llm_jax.core.table import UserError
from llm_jax.core.types import Array, Conditional, Model, Params, Samples
from llm_jax.decode.beam import search
from llm_jax.decode.sample import generate, stream
from llm_jax.run.parts.sampling import Sample
from llm_jax.run.texts.prompts import asked, decoding, encoded, latent
from llm_jax.text import streaming
from llm_jax.text.base import Tokenizer


def continuations(
    model: Model, params: Params, tokenizer: Tokenizer, sample: Sample, *, seed: int, stops: Sequence[int] = ()
) -> list[str]:
    """Return each of the section's prompts with its continuation, or with what an encoder-decoder writes from it.

    Of a model that draws whole texts, one for each prompt. `stops` end a text, by default the tokenizer's own.

    Raises:
        UserError: the model makes no texts, or draws whole ones and a prompt is not empty.
    """
    if isinstance(model, Samples):
        if sample.beams is not None:
            raise UserError("this model draws whole texts; leave out sample.beams")
        if any(sample.prompts):
            raise UserError("this model draws whole texts; give an empty prompt for each")
        starts, key = _starts(tokenizer, len(sample.prompts)), keys.fold(jax.random.key(seed), "sample")
        return _told(jax.jit(model.sample, static_argnums=3)(params, key, starts, sample.tokens), tokenizer)
    stops, given = stops or tokenizer.stops, asked(model, tokenizer, sample.prompts)
    if sample.beams is not None:
        texts = [best[0] for best in searched(model, params, tokenizer, sample.prompts, sample, stops=stops)]
    else:
        rows = generate(
            decoding(model), params, **given, max_new_tokens=sample.tokens,
            settings=sample.settings(), seed=seed, stop_ids=stops, vocab_size=tokenizer.vocab_size,
        )  # fmt: skip
        texts = [_after(tokenizer, before, row, stops) for before, row in zip(given["prompts"], rows, strict=True)]
    between = "\n=> " if isinstance(model, Conditional) else ""
    return [prompt + between + text for prompt, text in zip(sample.prompts, texts, strict=True)]


def searched(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    sample: Sample,
    *,
    stops: Sequence[int],
    num: int = 1,
    starts: Sequence[int] = (),
) -> list[list[str]]:
    """Return the best `num` texts after each prompt, or written from it, that the section's beams find.

    Raises:
        UserError: as `decode.beam.search`.
    """
    given = asked(model, tokenizer, prompts, starts)
    found = search(
        decoding(model), params, **given, max_new_tokens=sample.tokens,
        beams=sample.searching(), num=num, stop_ids=stops, vocab_size=tokenizer.vocab_size,
    )  # fmt: skip
    return [
        [_after(tokenizer, before, text.ids, stops) for text in texts]
        for before, texts in zip(given["prompts"], found, strict=True)
    ]


def _after(tokenizer: Tokenizer, before: Sequence[int], ids: Sequence[int], stops: Sequence[int]) -> str:
    """The text of ids that follow others, with the space between."""
    return "".join(streaming.stream(tokenizer, (i for i in ids if i not in stops), before))


def ended(row: list[int], tokenizer: Tokenizer) -> list[int]:
    """The ids before the end of a text, without those that an objective adds to the tokenizer's."""
    end = row.index(tokenizer.eos_id) if tokenizer.eos_id in row else len(row)
    return [i for i in row[:end] if i < tokenizer.vocab_size]


def pieces(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    prompt: str,
    sample: Sample,
    *,
    seed: int,
    num: int,
    stops: Sequence[int],
    starts: Sequence[int] = (),
) -> Iterator[tuple[int, str]]:
    """Yield (number of the sample, next piece of its text) as the text is made; `stops` end it, and are no part.

    starts: what a decoder of an encoder-decoder starts with, see `asked`.
    """
    given = asked(model, tokenizer, [prompt], starts)
    before = given["prompts"][0]
    yield from streamed(model, params, tokenizer, given, sample, seed=seed, num=num, stops=stops, before=before)


def streamed(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    given: Mapping[str, Any],
    sample: Sample,
    *,
    seed: int,
    num: int,
    stops: Sequence[int],
    before: Sequence[int] = (),
) -> Iterator[tuple[int, str]]:
    """Yield as `pieces` does, of what is `given` to `decode`: prompts as ids; the text goes on from `before`."""
    decoders = [streaming.decoder(tokenizer, before) for _ in range(num)]
    made = stream(
        decoding(model), params, **given, max_new_tokens=sample.tokens, settings=sample.settings(), seed=seed, num=num,
        stop_ids=stops, vocab_size=tokenizer.vocab_size,
    )  # fmt: skip
    for step in made:
        for number, ids in enumerate(step):
            yield number, "".join(decoders[number](i) for i in ids if i not in stops)
    for number, push in enumerate(decoders):
        yield number, push(None)


def between(
    model: Model, params: Params, tokenizer: Tokenizer, first: str, last: str, *, steps: int, tokens: int
) -> list[str]:
    """Return `steps` texts on the straight line from the vector of one text to that of another, both ends included.

    Bowman et al. 2016, §5.3. Each token is the likeliest.
    """
    model = latent(model)
    rows = encoded(tokenizer, [first, last])
    width = max(map(len, rows))
    weights = np.array([[1.0] * len(row) + [0.0] * (width - len(row)) for row in rows], np.float32)
    targets = np.array([row + [0] * (width - len(row)) for row in rows], np.int32)
    batch = {"tokens": np.roll(targets, 1, axis=1), "targets": targets, "weights": weights}
    mean, _ = jax.jit(model.posterior)(params, batch)
    share = np.linspace(0.0, 1.0, steps, dtype=np.float32)[:, None]
    z = (1 - share) * mean[0] + share * mean[1]
    made = jax.jit(model.write, static_argnums=4)(params, z, None, _starts(tokenizer, steps), tokens)
    return _told(made, tokenizer)


def _starts(tokenizer: Tokenizer, count: int) -> np.ndarray:
    """The id before each of so many texts."""
    return np.full(count, encoded(tokenizer, [""])[0][0], np.int32)


def _told(rows: Array, tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode(ended(row, tokenizer)) for row in np.asarray(rows).tolist()]
