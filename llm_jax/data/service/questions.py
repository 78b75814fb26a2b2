"""What a record asks a service, by OpenAI's interface, and the record that its answer makes."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from llm_jax.core import checks
from llm_jax.core.table import UserError, lookup
from llm_jax.data.examples.chats import messages_of
from llm_jax.data.examples.records import Record, text_of
from llm_jax.data.service.client import Unanswered
from llm_jax.text.normalize import well_formed

ENDPOINTS = {
    "chat": "llm_jax.data.service.questions:CHAT",
    "completions": "llm_jax.data.service.questions:COMPLETIONS",
}
Token = tuple[str | list[int], float]
MESSAGES = "messages"
ABOUT = "service"  # the field of a record that says where its answer is from


@dataclass(frozen=True, kw_only=True)
class Questions:
    """How records are asked.

    model: its name at the service. endpoint: a key of `ENDPOINTS`. prompt, response: names of the fields of the
    question and the answer; a record with `messages` asks by these. system: what the model is told before a
    conversation, and the student is not. max_tokens: of an answer. temperature: None for the service's own. top: how
    many of the likeliest tokens are asked for at each place, with their log-probabilities; 0 for none. extra: further
    fields of a request.
    """

    model: str
    endpoint: str = "chat"
    prompt: str = "prompt"
    response: str = "response"
    system: str | None = None
    max_tokens: int = 512
    temperature: float | None = None
    top: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.positive("label", max_tokens=self.max_tokens)
        checks.non_negative("label", temperature=self.temperature, top=self.top)
        if self.system is not None and not self.kind.converses:
            raise UserError(f"--system={self.system!r} is of conversations; leave it out, or give --endpoint=chat")

    @cached_property
    def kind(self) -> "Endpoint":
        """The member of `ENDPOINTS`."""
        found: Endpoint = lookup(ENDPOINTS, self.endpoint, "--endpoint")
        return found

    def body(self, record: Record) -> dict[str, Any]:
        """Return the body of a request.

        Raises:
            UserError: the record asks nothing; the message names it.
        """
        body = {"model": self.model, **self.kind.asks(self, record), "max_tokens": self.max_tokens}
        body |= self.kind.asks_top(self.top) if self.top else {}
        return body | ({} if self.temperature is None else {"temperature": self.temperature}) | dict(self.extra)

    def read(self, told: Any) -> "Answer":
        """Return the answer in the JSON that comes back.

        Raises:
            Unanswered: there is none.
        """
        try:
            choice = told["choices"][0]
            text, finish, model = self.kind.text(choice), choice.get("finish_reason"), told.get("model")
            tokens = self.kind.tokens(choice["logprobs"]) if self.top and text else []
        except (TypeError, KeyError, IndexError, AttributeError, ValueError):
            text = 0
        if not isinstance(text, str | None):
            more = f" with the {self.top} likeliest tokens (--top)" if self.top else ""
            raise Unanswered(f"the answer is none of {self.kind.path}{more}: {json.dumps(told)!r:.200}")
        return Answer(well_formed(text or ""), str(finish), str(model), tokens)

    def answered(self, record: Record, answer: "Answer") -> dict[str, Any]:
        """Return the record with its answer, as the forms `chat` and `pairs` read it."""
        about: dict[str, Any] = {"asked": self.digest(record), "model": answer.model, "finish_reason": answer.finish}
        about |= {"tokens": answer.tokens} if self.top else {}
        if self.kind.converses and MESSAGES in record.values:
            told = {"role": "assistant", "content": answer.text}
            return {**record.values, MESSAGES: [*record.values[MESSAGES], told], ABOUT: about}
        return {**record.values, self.response: answer.text, ABOUT: about}

    def digest(self, record: Record) -> str:
        """Return what tells a question from others: model, prompt and settings."""
        whole = json.dumps([self.kind.path, self.body(record)], sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()[:16]


class Answer(NamedTuple):
    """What a service said.

    finish: why it ended, "stop" or "length". model: the name that the service gives itself. tokens: at each place of
    the text the one that stands there and then the likeliest, each (its text or else its bytes, log-probability).
    """

    text: str
    finish: str
    model: str
    tokens: list[list[Token]]


class Endpoint(NamedTuple):
    """One kind of request.

    asks: what stands in its body for a record. asks_top: and for so many likeliest tokens. text: of one of the
    `choices`. tokens: of its `logprobs`.
    """

    path: str
    converses: bool
    asks: Callable[[Questions, Record], dict[str, Any]]
    asks_top: Callable[[int], dict[str, Any]]
    text: Callable[[Any], Any]
    tokens: Callable[[Any], list[list[Token]]]


def _conversation(questions: Questions, record: Record) -> dict[str, Any]:
    if MESSAGES in record.values:
        messages = [dict(message) for message in messages_of(record, MESSAGES)]
        if messages[-1]["role"] != "user":
            raise UserError(f"{record.name}: the last message is of the role {messages[-1]['role']!r}, not 'user'")
    else:
        messages = [{"role": "user", "content": _text(questions, record)}]
    if questions.system is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": questions.system})
    return {"messages": messages}


def _text(questions: Questions, record: Record) -> str:
    if questions.prompt not in record.values:
        there = ", ".join(record.values) or "none"
        raise UserError(f"{record.name}: no field {questions.prompt!r}; there are: {there} (--prompt names the field)")
    return text_of(record, questions.prompt, "prompt")


def _token(text: Any, raw: Any, log_prob: Any) -> Token:
    """Return a token by its bytes, where the service gives them and they are no text of their own."""
    whole = None if raw is None else bytes(raw)
    try:
        named: str | list[int] = str(text) if whole is None else whole.decode()
    except UnicodeDecodeError:
        named = list(whole or b"")
    return named, float(log_prob)


def _chosen(logprobs: Any) -> list[list[Token]]:
    """Read the `logprobs` of chat/completions."""
    return [
        [_token(one["token"], one.get("bytes"), one["logprob"]) for one in (place, *place["top_logprobs"])]
        for place in logprobs["content"]
    ]


def _completed(logprobs: Any) -> list[list[Token]]:
    """Read the `logprobs` of completions, which gives no bytes."""
    places = zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True)
    return [[_token(text, None, p), *(_token(t, None, q) for t, q in top.items())] for text, p, top in places]


CHAT = Endpoint(
    "chat/completions", True, _conversation, lambda top: {"logprobs": True, "top_logprobs": top},
    lambda choice: choice["message"]["content"], _chosen,
)  # fmt: skip
COMPLETIONS = Endpoint(
    "completions", False, lambda questions, record: {"prompt": _text(questions, record)}, lambda top: {"logprobs": top},
    lambda choice: choice["text"], _completed,
)  # fmt: skip
