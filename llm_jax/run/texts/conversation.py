"""Conversations: what was said so far, and the answers of a model to it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from llm_jax.core.table import UserError
from llm_jax.core.types import Model, Params
from llm_jax.run.parts.sampling import Sample
from llm_jax.run.texts.continued import streamed
from llm_jax.text import chat
from llm_jax.text.base import Tokenizer


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
        made = streamed(
            self.model, self.params, self.tokenizer, {"prompts": [ids]}, self.sample, seed=self.seed, num=1,
            stops=self.stops,
        )  # fmt: skip
        yield from (piece for _, piece in made)
