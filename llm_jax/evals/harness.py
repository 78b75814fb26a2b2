"""What EleutherAI's lm-eval asks of a language model, answered in process: no torch, no server.

`language_model` joins these answers with lm-eval's own template, which tokenizes pairs of context and continuation.
All else, tasks, few-shot prompts, metrics and errors, is lm-eval's: `pip install lm-eval==0.4.13`.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from llm_jax.core.table import UserError
from llm_jax.core.types import Decodes, Params
from llm_jax.decode.filters import Sampling
from llm_jax.decode.sample import stream, unstacked
from llm_jax.evals.suites.texts import batches, rolling, scores
from llm_jax.text import chat
from llm_jax.text.base import Tokenizer

NEW_TOKENS = 256  # unless a task says otherwise, as with lm-eval's own backends
MARK = chr(chat.UNUSED[0])
DRAWN = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


class Answers:
    """The requests of lm-eval on token ids, many at a time.

    Args:
        model: continues texts.
        params: its parameters.
        words: its tokenizer.
        prefix: the id before a text that has no context.
        stops: the ids that end an answer.
        width: the most tokens that the model reads.
        template: of chats, where questions are put as such; None for plain texts.
    """

    tokenizer = None  # lm-eval looks for Hugging Face's here

    def __init__(
        self,
        model: Decodes,
        params: Params,
        words: Tokenizer,
        *,
        prefix: int,
        stops: Sequence[int],
        width: int,
        template: str | None = None,
    ):
        super().__init__()
        self._model, self._params, self._words = model, params, words
        self._prefix, self._stops, self._width, self._template = prefix, tuple(stops), width, template

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        return self._prefix if self._words.eos_id is None else self._words.eos_id

    @property
    def prefix_token_id(self) -> int:
        """The id before a text that has no context."""
        return self._prefix

    @property
    def tokenizer_name(self) -> str:
        """What tells this tokenizer from others."""
        return self._words.fingerprint

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template of chats, if questions are put as such."""
        return self._template if chat_template else None

    def apply_chat_template(self, chat_history: Sequence[chat.Message], add_generation_prompt: bool = True) -> str:
        """Return a conversation as one text, with marks in what people wrote (see `text.chat`)."""
        if self._template is None:
            raise UserError("this model has no chat template; leave out --chat")
        return chat.written(self._template, self._words, chat_history, MARK, answered=not add_generation_prompt)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return the ids of a text, after the id that the tokenizer puts before one unless `add_special_tokens=False`.

        Literals of control tokens are control tokens in chats, where the template wrote them, and text elsewhere.
        """
        ids = self._words.encode(string).tolist() if self._template is None else chat.ids(string, self._words, MARK)
        start = self._words.bos_id
        return ids if add_special_tokens is False or start is None or ids[:1] == [start] else [start, *ids]

    def _loglikelihood_tokens(self, requests: Sequence[tuple], **_: Any) -> list[tuple[float, bool]]:
        """Return (log p, whether each token is the likeliest) of (names, context, continuation); all in ids."""
        pairs = []
        for (_context, told), context, more in requests:
            if not 0 < len(more) <= self._width:
                raise UserError(f"the answer {told[:40]!r} has {len(more)} tokens; the model reads 1 to {self._width}")
            whole = [*context, *more][-(self._width + 1) :]
            pairs.append((whole[: -len(more)], list(more)))
        found = scores(self._model, self._params, pairs)
        return list(zip(found.log_prob.tolist(), found.greedy.tolist(), strict=True))

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return log p of each whole text."""
        texts = [self.tok_encode(*request.args) for request in requests]
        return rolling(self._model, self._params, texts, self._prefix, self._width).tolist()

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the continuation of each text, up to a stop sequence of its task, an end of text, or its length."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        told = [""] * len(requests)
        for numbers in groups.values():
            contexts = [requests[i].args[0] for i in numbers]
            for i, text in zip(numbers, self._continued(contexts, requests[numbers[0]].args[1]), strict=True):
                told[i] = text
        return told

    def _continued(self, contexts: Sequence[str], asked: Mapping[str, Any]) -> list[str]:
        from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

        given: dict[str, Any] = dict(normalize_gen_kwargs(dict(asked), NEW_TOKENS))
        until, most = handle_stop_sequences(given.pop("until", None), eos=None), given.pop("max_gen_toks")
        if most >= self._width:
            raise UserError(f"max_gen_toks={most} leaves nothing of the {self._width} tokens that the model reads")
        settings = _settings(given)
        ids = [self.tok_encode(context)[-(self._width - most) :] or [self._prefix] for context in contexts]
        told = [""] * len(ids)
        for rows in batches([len(row) + most for row in ids]):
            made = stream(
                self._model, self._unstacked, [ids[i] for i in rows], max_new_tokens=most, settings=settings,
                stop_ids=self._stops, vocab_size=self._words.vocab_size, chunk=16,
            )  # fmt: skip
            for i, text in zip(rows, self._until(made, until), strict=True):
                told[i] = text
        return told

    def _until(self, made: Iterable[list[list[int]]], until: Sequence[str]) -> list[str]:
        """Return the texts of rows as they are made, each before the first of `until`, as soon as all have met one."""
        rows: list[list[int]] = []
        texts: list[str] = []
        for piece in made:
            rows = [row + new for row, new in zip(rows, piece, strict=True)] if rows else piece
            texts = [self._words.decode(row) for row in rows]
            if all(any(end and end in text for end in until) for text in texts):
                break
        for end in filter(None, until):
            texts = [text.split(end)[0] for text in texts]
        return texts

    @cached_property
    def _unstacked(self) -> Params:
        return unstacked(self._model, self._params)


def _settings(given: Mapping[str, Any]) -> Sampling:
    """Return how tokens are drawn, in our words."""
    unknown = [name for name in given if name not in (*DRAWN, "do_sample")]
    if unknown:
        raise UserError(f"generation_kwargs.{unknown[0]} is not known here; accepted: do_sample, {', '.join(DRAWN)}")
    if not given.get("do_sample"):
        return Sampling(0.0, repetition_penalty=given.get("repetition_penalty", 1.0))
    return Sampling(**{"temperature": 1.0, **{name: given[name] for name in DRAWN if name in given}})


def language_model() -> Callable[..., Any]:
    """Return the class of an `lm_eval.api.model.LM` that answers as `Answers`, with its arguments.

    Raises:
        UserError: lm-eval is not installed.
    """
    try:
        from lm_eval.api.model import TemplateLM
    except ImportError:
        raise UserError(
            "lm-eval is not installed: pip install -r requirements-evals.txt (torch is not needed)"
        ) from None
    return type("LlmJax", (Answers, TemplateLM), {})
