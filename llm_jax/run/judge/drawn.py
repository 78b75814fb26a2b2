"""How texts that a generator draws differ from each other, and how likely n-grams of held-out text find them."""

import jax
import numpy as np

from llm_jax.core import keys
from llm_jax.core.table import UserError
from llm_jax.core.types import Adversaries, Counts, Params
from llm_jax.evals.diversity import counted, diversity
from llm_jax.run.open_run import OpenRun
from llm_jax.run.texts.prompts import encoded
from llm_jax.text.base import Tokenizer


def drawn(opened: OpenRun, params: Params, draws: int, under: OpenRun | None = None) -> dict[str, float]:
    """Return `distinct_1`, `distinct_2` and `self_bleu` of so many texts; `under_bits`, per byte, are those of n-grams.

    Args:
        opened: the run of the generator; texts are as long as its rows.
        params: its parameters.
        draws: texts, at least 2.
        under: a run of n-grams with the same tokenizer, or None.

    Raises:
        UserError: the other run is none of n-grams, or has another tokenizer; or there is one text alone.
    """
    model, words = opened.model, opened.tokenizer
    if not isinstance(model, Adversaries):
        raise UserError(
            f"model.name={opened.resolved.values['model']['name']!r} is no generator against another player"
        )
    judge = None if under is None else _counts(under, words)
    starts = np.full(draws, encoded(words, [""])[0][0], np.int32)
    key, width = keys.fold(jax.random.key(0), "sample"), opened.resolved.values["data"]["seq_len"]
    texts = np.asarray(jax.jit(model.sample, static_argnums=3)(params, key, starts, width))
    found = diversity(texts.tolist())
    if under is None or judge is None:
        return found
    return found | {"under_bits": counted(judge, under.params(), texts, words.token_bytes).value}


def _counts(under: OpenRun, words: Tokenizer) -> Counts:
    """Return the n-grams of a run, whose tokens are those of `words`."""
    if not isinstance(under.model, Counts):
        raise UserError(f'--under={under.workdir.path} is no run of n-grams; train one with model.name="ngram"')
    if under.tokenizer.fingerprint != words.fingerprint:
        raise UserError(f"--under={under.workdir.path} has another tokenizer; train it with this run's data.tokenizer")
    return under.model
