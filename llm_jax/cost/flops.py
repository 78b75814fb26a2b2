"""Model FLOPs, counted from declared parameters: 6 a weight of a matrix product and token, plus attention.

Embedding look-ups and vectors cost nothing; a tied table counts once, as the output head. Attention is
12 · L · H · K · T a token, forward and backward (Chowdhery et al. 2022, app. B), times the share of pairs that it sees.
"""

import math
from collections.abc import Collection, Mapping

from llm_jax.core.types import Declaration

CAUSAL, PREFIX, WHOLE = 1 / 2, 2 / 3, 1.0
"""Shares of the pairs of a row's tokens: those before each; with those of a prefix of any length, as likely as all
others, both ways (1/2 + ∫ p²/2 dp over [0, 1]); all."""


def matmul_parameters(declared: Mapping[str, Declaration], but: Collection[str] = ()) -> int:
    """Return the number of weights that each token is multiplied by: of experts, those that it chooses.

    Those of the paths `but` do not count.
    """
    tables = [p for p, d in declared.items() if "vocab" in d.axes]
    idle = tables[:-1] if len(tables) > 1 else []  # with an untied head, the embedding table is only looked up
    return sum(
        round(math.prod(d.shape) * d.share) for p, d in declared.items() if p not in (*idle, *but) and _is_matrix(p, d)
    )


def _is_matrix(path: str, d: Declaration) -> bool:
    dims = [a for a in d.axes if a != "layer"]
    return len(dims) > 1 and not path.endswith(("bias", "scale")) and dims[0] is not None


def per_token(
    declared: Mapping[str, Declaration], seq_len: int, *, seen: float = CAUSAL, frozen: Collection[str] = ()
) -> float:
    """Return the FLOPs of training on one token, forward and backward, in a text of `seq_len` tokens.

    seen: the share of the text's pairs of tokens that attention is of. frozen: paths of which no gradient is computed,
    which saves a third of their products.
    """
    saved = 2.0 * (matmul_parameters(declared) - matmul_parameters(declared, frozen)) if frozen else 0.0
    return 6.0 * matmul_parameters(declared) - saved + attention(declared, seq_len) * seen


def attention(declared: Mapping[str, Declaration], seq_len: int) -> int:
    """Return the FLOPs of attention, of all pairs, in training on one token."""
    queries = [d for p, d in declared.items() if p.endswith(("/query", "/query_up"))]
    return sum(12 * d.shape[0] * math.prod(d.shape[-2:]) * seq_len for d in queries)


def forward(declared: Mapping[str, Declaration], seq_len: int, *, seen: float = CAUSAL) -> float:
    """Return the FLOPs of reading one token: a third of those of training on it."""
    return per_token(declared, seq_len, seen=seen) / 3
