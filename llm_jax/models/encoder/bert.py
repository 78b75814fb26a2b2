"""BERT (Devlin et al. 2019): an encoder with learned positions, types of tokens, norms after each part, GELU."""

from dataclasses import dataclass

from llm_jax.models.encoder import parts


@dataclass(frozen=True)
class Bert:
    """The section `model` of this family. None derives: mlp_dim = 4 · embed_dim.

    num_types: of `token_types`, which of two sentences a token is of. pooler: whether the first token's state has the
    dense layer of sentence-level tasks, and the head that tells the order of two sentences (Lan et al. 2020).
    """

    vocab_size: int
    max_positions: int
    num_types: int = 2
    num_layers: int = 12
    embed_dim: int = 768
    num_heads: int = 12
    mlp_dim: int | None = None
    dropout: float = 0.0
    norm_eps: float = 1e-12
    attention: str = "auto"
    pooler: bool = True

    def __post_init__(self) -> None:
        parts.check(self)

    declarations = parts.declarations
    init = parts.init
    apply = parts.apply
    embed = parts.embed


PRESETS = {
    "mini_lm": {"num_layers": 6, "embed_dim": 384, "num_heads": 12, "mlp_dim": 1536},
    "base": {"num_layers": 12, "embed_dim": 768, "num_heads": 12},
    "large": {"num_layers": 24, "embed_dim": 1024, "num_heads": 16},
}
"""Published sizes as fields of `Bert`; vocab_size 30522, max_positions 512."""
