"""Text in, text out: prompts encoded, continued by `decode`, decoded; and conversations, turn by turn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from llm_jax.core import keys
from llm_jax.core.table import UserError
from llm_jax.core.types import Conditional, Decodes, Latent, Model, Params, Samples
from llm_jax.data.corrupt.rows import ends
from llm_jax.decode.beam import search
from llm_jax.decode.sample import generate, stream
from llm_jax.run.parts.sampling import Sample
from llm_jax.text import chat
from llm_jax.text.base import Tokenizer
from llm_jax.text.streaming import decoder


def encoded(tokenizer: Tokenizer, prompts: Sequence[str]) -> list[list[int]]:
    """Return the ids of each prompt after the id that starts a text, if the tokenizer has one.

    An empty prompt becomes the id that stands between texts.

    Raises:
        UserError: a prompt is empty and the tokenizer has no such id.
    """
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    between = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    rows = [start + tokenizer.encode(prompt).tolist() or between for prompt in prompts]
    if not all(rows):
        raise UserError("the prompt is empty, and this tokenizer has no id that starts a text; give --prompt=TEXT")
    return rows


def asked(model: Model, tokenizer: Tokenizer, prompts: Sequence[str], starts: Sequence[int] = ()) -> dict[str, Any]:
    """Return what `decode` reads of prompts: `prompts`, or of an encoder-decoder `sources` and how its decoder starts.

    A source stands between the ids that its tokenizer puts around a text, by default before the one that ends texts.

    Args:
        model: a member of `Decodes`.
        tokenizer: its tokenizer.
        prompts: texts.
        starts: what a decoder of an encoder-decoder starts with; default what its data start with, `rows.ends`.

    Raises:
        UserError: a prompt is empty, and it is a source, or the tokenizer has no id between texts.
    """
    if not isinstance(model, Conditional):
        return {"prompts": encoded(tokenizer, prompts), "sources": None}
    around, (before, after) = ends(tokenizer), tokenizer.frame
    after = after or (() if around.end is None else (around.end,))
    if not all(prompts):
        raise UserError("the prompt is empty, and it is what this model writes from; give --prompt=TEXT")
    sources = [[*before, *ids.tolist(), *after] for ids in tokenizer.encode_batch(prompts)]
    return {"prompts": [list(starts) or [around.start]] * len(prompts), "sources": sources}


def decoding(model: Model) -> Decodes:
    """Return a model that continues texts.

    Raises:
        UserError: this one does not.
    """
    if not isinstance(model, Decodes):
        raise UserError(f"model.name={type(model).__name__.lower()!r} does not continue texts; sample needs a decoder")
    return model


def latent(model: Model) -> Latent:
    """Return a model of texts given a vector.

    Raises:
        UserError: this one is none.
    """
    if not isinstance(model, Latent):
        raise UserError(
            f"model.name={type(model).__name__.lower()!r} has no latent vectors; this needs one such as vae"
        )
    return model


def between(
    model: Model, params: Params, tokenizer: Tokenizer, first: str, last: str, *, steps: int, tokens: int
) -> list[str]:
    """Return `steps` texts on the straight line from the vector of one text to that of another, both ends included.

    Bowman et al. 2016, §5.3. Each token is the likeliest.
    """
    model = latent(model)
    rows = encoded(tokenizer, [first, last])
    start = _end(tokenizer)
    width = max(map(len, rows))
    weights = np.array([[1.0] * len(row) + [0.0] * (width - len(row)) for row in rows], np.float32)
    targets = np.array([row + [0] * (width - len(row)) for row in rows], np.int32)
    batch = {"tokens": np.roll(targets, 1, axis=1), "targets": targets, "weights": weights}
    mean, _ = jax.jit(model.posterior)(params, batch)
    share = np.linspace(0.0, 1.0, steps, dtype=np.float32)[:, None]
    z = (1 - share) * mean[0] + share * mean[1]
    made = jax.jit(model.write, static_argnums=4)(params, z, None, np.full(steps, start, np.int32), tokens)
    return [tokenizer.decode(ended(row, tokenizer)) for row in np.asarray(made).tolist()]


def _end(tokenizer: Tokenizer) -> int:
    """The id before a text."""
    return encoded(tokenizer, [""])[0][0]


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
        start = np.full(len(sample.prompts), _end(tokenizer), np.int32)
        drawn = jax.jit(model.sample, static_argnums=3)
        made = drawn(params, keys.fold(jax.random.key(seed), "sample"), start, sample.tokens)
        return [tokenizer.decode(ended(row, tokenizer)) for row in np.asarray(made).tolist()]
    stops = stops or tokenizer.stops
    if sample.beams is not None:
        texts = [best[0] for best in searched(model, params, tokenizer, sample.prompts, sample, stops=stops)]
    else:
        rows = generate(
            decoding(model), params, **asked(model, tokenizer, sample.prompts), max_new_tokens=sample.tokens,
            settings=sample.settings(), seed=seed, stop_ids=stops, vocab_size=tokenizer.vocab_size,
        )  # fmt: skip
        texts = [tokenizer.decode(i for i in row if i not in stops) for row in rows]
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
    found = search(
        decoding(model), params, **asked(model, tokenizer, prompts, starts), max_new_tokens=sample.tokens,
        beams=sample.searching(), num=num, stop_ids=stops, vocab_size=tokenizer.vocab_size,
    )  # fmt: skip
    return [[tokenizer.decode(i for i in text.ids if i not in stops) for text in texts] for texts in found]


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
    decoders = [decoder(tokenizer) for _ in range(num)]
    made = stream(
        decoding(model), params, **asked(model, tokenizer, [prompt], starts), max_new_tokens=sample.tokens,
        settings=sample.settings(), seed=seed, num=num, stop_ids=stops, vocab_size=tokenizer.vocab_size,
    )  # fmt: skip
    for step in made:
        for number, ids in enumerate(step):
            yield number, "".join(decoders[number](i) for i in ids if i not in stops)
    for number, push in enumerate(decoders):
        yield number, push(None)


@dataclass
class Conversation:
    """A model that answers, and what was said so far.

    Attributes:
        params: best after `decode.sample.unstacked`, as every answer uses them anew.
        template: how turns are written, in jinja2's language.
        sample: how tokens are drawn, and the most that an answer has.
        stops: the ids that end an answer, which are no part of it.
        window: positions that a conversation with its next answer may take, in tokens.
        system: what the model is told before everything, or None for what the template says.
        turns: user and assistant in turn, oldest first; those that found no room are gone.
        dropped: how many turns are gone.
    """

    model: Model
    params: Params
    tokenizer: Tokenizer
    template: str
    sample: Sample
    seed: int
    stops: Sequence[int]
    window: int
    system: str | None = None
    turns: list[chat.Message] = field(default_factory=list)
    dropped: int = 0

    def answer(self, text: str) -> Iterator[str]:
        """Yield the pieces of an answer; what was yielded is remembered, however the iteration ends.

        A message whose answer was ended before its first character is forgotten.

        Raises:
            UserError: the template refuses the conversation, or the message alone finds no room.
        """
        said = ""
        self.turns.append({"role": "user", "content": text})
        try:
            for piece in self._continued(self._prompt()):
                said += piece
                yield piece
        finally:
            self.turns += [{"role": "assistant", "content": said}] if said else []
            if not said:
                self.turns.pop()

    def _prompt(self) -> list[int]:
        """Return the ids of the conversation, without the oldest turns where all find no room."""
        first = [] if self.system is None else [{"role": "system", "content": self.system}]
        turns = list(self.turns)
        while True:
            ids = chat.encode(self.template, self.tokenizer, [*first, *turns])
            if len(ids) + self.sample.tokens <= self.window:
                self.dropped += len(self.turns) - len(turns)
                self.turns = turns
                return ids
            if len(turns) == 1:
                raise UserError(
                    f"the message has {len(ids)} tokens with the template's own, and an answer of at most "
                    f"--tokens={self.sample.tokens} more, which exceeds the model's {self.window} positions; "
                    "shorten it, or give fewer --tokens"
                )
            del turns[:2]

    def _continued(self, ids: Sequence[int]) -> Iterator[str]:
        push = decoder(self.tokenizer)
        made = stream(
            decoding(self.model), self.params, [ids], max_new_tokens=self.sample.tokens,
            settings=self.sample.settings(), seed=self.seed, stop_ids=self.stops, vocab_size=self.tokenizer.vocab_size,
        )  # fmt: skip
        for (new,) in made:
            yield "".join(push(i) for i in new if i not in self.stops)
        yield push(None)
