"""Text in, text out: prompts encoded, continued by `decode`, decoded."""

from collections.abc import Iterator, Sequence

from llm_jax.core.table import UserError
from llm_jax.core.types import Decodes, Model, Params
from llm_jax.decode.sample import generate, stream
from llm_jax.run.sections import Sample
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


def decoding(model: Model) -> Decodes:
    """Return a model that continues texts.

    Raises:
        UserError: this one does not.
    """
    if not isinstance(model, Decodes):
        raise UserError(f"model.name={type(model).__name__.lower()!r} does not continue texts; sample needs a decoder")
    return model


def continuations(model: Model, params: Params, tokenizer: Tokenizer, sample: Sample, *, seed: int) -> list[str]:
    """Return each of the section's prompts with its continuation."""
    rows = generate(
        decoding(model), params, encoded(tokenizer, sample.prompts), max_new_tokens=sample.tokens,
        settings=sample.settings(), seed=seed, eos_id=tokenizer.eos_id, vocab_size=tokenizer.vocab_size,
    )  # fmt: skip
    return [prompt + tokenizer.decode(row) for prompt, row in zip(sample.prompts, rows, strict=True)]


def pieces(
    model: Model, params: Params, tokenizer: Tokenizer, prompt: str, sample: Sample, *, seed: int, num: int
) -> Iterator[tuple[int, str]]:
    """Yield (number of the sample, next piece of its text) as the text is made."""
    decoders = [decoder(tokenizer) for _ in range(num)]
    made = stream(
        decoding(model), params, encoded(tokenizer, [prompt]), max_new_tokens=sample.tokens, settings=sample.settings(),
        seed=seed, num=num, eos_id=tokenizer.eos_id, vocab_size=tokenizer.vocab_size,
    )  # fmt: skip
    for step in made:
        for number, ids in enumerate(step):
            yield number, "".join(map(decoders[number], ids))
    for number, push in enumerate(decoders):
        yield number, push(None)
