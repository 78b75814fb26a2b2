"""What a run reads: its tokenizer, and the loaders of its data."""

from collections.abc import Callable
from functools import partial
from typing import Any

from llm_jax.core.table import UserError, lookup
from llm_jax.data.build import Data as Loaders
from llm_jax.data.build import build
from llm_jax.data.features import Transform
from llm_jax.data.mixture import training_texts
from llm_jax.data.turns.clients import Rounds
from llm_jax.data.turns.poisson import Poisson
from llm_jax.run.config import Config
from llm_jax.run.parts.learning import Local
from llm_jax.run.parts.models import form, objective
from llm_jax.run.sections import Data
from llm_jax.text import tokenizers
from llm_jax.text.base import Tokenizer


def tokenizer(data: Data) -> Tokenizer:
    """Return the tokenizer of a configuration, trained on the training split if it is of a kind that trains."""
    options = dict(data.tokenizer)
    name = options.pop("name")
    where: dict[str, Any] = {"source": data.source, "options": data.options, "mixture": data.mixture}
    if not lookup(tokenizers.TOKENIZERS, name, "data.tokenizer.name").trains:
        return tokenizers.build(name, options)
    texts, fingerprint = training_texts(**where, normalization=data.normalization, form=form(data.form))
    return tokenizers.build(name, options, texts, fingerprint)


def batches(config: Config, data: Data, local: Local, words: Tokenizer, template: str | None = None) -> Loaders:
    """Return the loaders of a configuration; the chat template is for a form that needs one."""
    rounds = Rounds(local.workers, local.every, data.clients, data.client_pattern) if data.federated else None
    return build(
        tokenizer=words, seq_len=data.seq_len, batch_size=data.batch_size, source=data.source, options=data.options,
        mixture=data.mixture, normalization=data.normalization, packing=data.packing, seed=config.values["seed"],
        rounds=rounds if data.poisson is None else Poisson(data.poisson), transform=reshaping(config, words),
        form=form(data.form), template=template,
    ).whole()  # fmt: skip


def reshaping(config: Config, words: Tokenizer) -> Callable[[int], Transform | None] | None:
    """Return seed -> what the objective of a configuration makes of packed rows; None for text as it is."""
    transform = getattr(objective(config), "transform", None)
    return transform and partial(transform, words, config.values["data"]["seq_len"])


def check_vocabulary(size: int | None, words: Tokenizer) -> None:
    """Refuse a vocabulary that has no row for some of the tokenizer's ids."""
    if size is not None and size < words.vocab_size:
        raise UserError(
            f"model.vocab_size={size} is smaller than the tokenizer's {words.vocab_size} ids; "
            f"leave it out, or set at least {words.vocab_size}"
        )
