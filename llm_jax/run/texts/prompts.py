"""Which models write, and what `decode` reads of the prompts that they are given."""

from collections.abc import Sequence
from typing import Any

from llm_jax.core.table import UserError
from llm_jax.core.types import Conditional, Decodes, Latent, Model
from llm_jax.data.corrupt.rows import ends
from llm_jax.text.base import Tokenizer


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
