"""RoBERTa (Liu et al. 2019): BERT with one type of tokens and no sentence-level task."""

from dataclasses import dataclass

from llm_jax.models.encoder import parts


@dataclass(frozen=True)
class Roberta:
    """The section `model` of this family. None derives: mlp_dim = 4 · embed_dim.

    num_types: of `token_types`, which of two sentences a token is of. pooler: whether the first token's state has the
    dense layer of sentence-level tasks, and the head that tells the order of two sentences (Lan et al. 2020).
    """

    vocab_size: int
    max_positions: int
    num_types: int = 1
    num_layers: int = 12
    embed_dim: int = 768
    num_heads: int = 12
    mlp_dim: int | None = None
    dropout: float = 0.0
    norm_eps: float = 1e-5
    attention: str = "auto"
    pooler: bool = False

    def __post_init__(self) -> None:
        parts.check(self)

    declarations = parts.declarations
    init = parts.init
    apply = parts.apply
    embed = parts.embed


PRESETS = {
    "base": {"num_layers": 12, "embed_dim": 768, "num_heads": 12},
    "large": {"num_layers": 24, "embed_dim": 1024, "num_heads": 16},
}
"""Published sizes as fields of `Roberta`; vocab_size 50265, max_positions 512."""
