"""Gated recurrent units (Cho et al. 2014) as a language model: layers of equal width, each with one state."""

from dataclasses import dataclass

from llm_jax.models.recurrent import layers
from llm_jax.nn.recurrent import cells


@dataclass(frozen=True)
class Gru:
    """The section `model` of this family.

    dropout: of each layer's inputs and of the last one's outputs. recurrent_dropout: of the state from step to step.
    Both drop the same features in all steps of a row (Gal & Ghahramani 2016).
    """

    vocab_size: int
    num_layers: int = 2
    embed_dim: int = 512
    tied: bool = True
    dropout: float = 0.0
    recurrent_dropout: float = 0.0

    def __post_init__(self) -> None:
        layers.check(self)

    declarations = layers.declarations
    init = layers.init
    apply = layers.apply
    empty_cache = layers.empty_cache
    prefill = layers.prefill
    extend = layers.extend
    carry = layers.carry

    def _cell(self) -> cells.Gru:
        return cells.Gru()
