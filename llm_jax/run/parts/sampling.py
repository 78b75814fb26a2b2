"""Texts that a run writes: which, how long, and whether their tokens are drawn or searched for."""

from dataclasses import dataclass, field

from llm_jax.core import checks
from llm_jax.core.table import UserError
from llm_jax.decode.beam import Beams
from llm_jax.decode.filters import Sampling


@dataclass(frozen=True)
class Sample:
    """Texts continued at each evaluation and written to samples/: which, by how many tokens, drawn or searched how.

    prompts: of an encoder-decoder, the texts that it writes from. temperature to repetition_penalty: those of
    `decode.filters.Sampling`. beams, length_penalty, stopping: those of `decode.beam.Beams`, which draw nothing; beams
    None: texts are drawn.
    """

    prompts: list[str] = field(default_factory=list)
    tokens: int = 128
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    beams: int | None = None
    length_penalty: float = 1.0
    stopping: str = "likely"

    def __post_init__(self) -> None:
        checks.positive("sample", tokens=self.tokens)
        self.settings()
        for name in DRAWING if self.beams is not None else ():
            if (value := getattr(self, name)) != DRAWING[name]:
                raise UserError(
                    f"sample.{name}={value!r} says how tokens are drawn, and sample.beams={self.beams} search for the "
                    "most probable text; leave out one of them"
                )
        for name in SEARCHING if self.beams is None else ():
            if (value := getattr(self, name)) != SEARCHING[name]:
                raise UserError(f"sample.{name}={value!r} is of beam search; set sample.beams too, such as 4")
        self.searching()

    def settings(self) -> Sampling:
        """How a token is drawn."""
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty)

    def searching(self) -> Beams | None:
        """How texts are searched for; None where they are drawn."""
        return None if self.beams is None else Beams(self.beams, self.length_penalty, self.stopping)


DRAWING = {
    name: Sample.__dataclass_fields__[name].default
    for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
}
"""The fields of `Sample` that say how texts are drawn, with their defaults."""

SEARCHING = {name: Sample.__dataclass_fields__[name].default for name in ("beams", "length_penalty", "stopping")}
"""Those that say how texts are searched for."""
