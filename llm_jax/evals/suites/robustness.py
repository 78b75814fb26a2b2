"""How much dearer a text is when it is mistyped, in odd case, or oddly spaced: bits per byte before and after."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from llm_jax.core.table import UserError
from llm_jax.evals.bootstrap import bootstrap
from llm_jax.evals.perplexity import Estimate
from llm_jax.evals.suites.case import Case
from llm_jax.evals.suites.perturb import PERTURBATIONS, perturbed
from llm_jax.evals.suites.texts import rolling

RATE = 0.05


def robustness(argument: str) -> Callable[[Case], dict[str, Estimate]]:
    """Return what tells `bits_per_byte` of held-out text, of each perturbation of it, and its `increase`.

    The argument is the share of characters that are changed (of spaces, for "whitespace"), 0.05 by default. Each is
    a byte of the text that was read, changed or not.

    Raises:
        UserError: the argument is no number above 0, up to 1.
    """
    try:
        rate = float(argument) if argument else RATE
    except ValueError:
        rate = math.nan
    if not 0 < rate <= 1:
        raise UserError(f"robustness:{argument}: the argument is a rate above 0, up to 1, such as robustness:{RATE}")
    return partial(_judged, rate)


def _judged(rate: float, case: Case) -> dict[str, Estimate]:
    model, read = case.reader(), case.reading
    before = [text for _, ids in case.pieces() if (text := read.tokenizer.decode(ids.tolist())).strip()]
    versions = {"": before} | {
        kind: [perturbed(kind, text, rate, case.seed, i) for i, text in enumerate(before)] for kind in PERTURBATIONS
    }
    sums = {}
    for kind, version in versions.items():
        ids = [row.tolist() for row in read.tokenizer.encode_batch(version)]
        bits = -rolling(model, case.params, ids, read.start, read.window) / math.log(2)
        sums[kind] = np.column_stack([bits, [len(text.encode()) for text in version]])
    plain = sums.pop("")
    found = {"bits_per_byte": bootstrap(_bits, plain, count=plain[:, 1].sum())}
    for kind, rows in sums.items():
        found[f"{kind}/bits_per_byte"] = bootstrap(_bits, rows, count=rows[:, 1].sum())
        both = np.stack([plain, rows], axis=1)
        found[f"{kind}/increase"] = bootstrap(_increase, both, count=rows[:, 1].sum())
    return found


def _bits(rows: np.ndarray) -> float:
    """Bits per byte of rows [N,2]."""
    bits, size = rows.sum(axis=0)
    return float(bits / size)


def _increase(rows: np.ndarray) -> float:
    """The difference in bits per byte of rows [N,2,2]: before, after."""
    return _bits(rows[:, 1]) - _bits(rows[:, 0])
