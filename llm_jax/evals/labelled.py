"""Judging classes, tags and numbers: what a model said of each text or token beside what is right.

Classes are judged as scikit-learn does: precision is the share of what was called a class that is of it, recall the
share of what is of it that was called so, F1 their harmonic mean, each 0 where nothing is divided by nothing; macro
means are over the classes that occur, right or said.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.core.types import Array, Batch, Model, Outputs, Params
from llm_jax.evals.perplexity import Estimate, ratio
from llm_jax.objectives.labelled import heads

KINDS = ("precision", "recall", "f1")
SHOWN = 24  # classes of a confusion matrix that is printed whole
WIDE = 20  # characters of a class's name in a table


def texts(model: Model, params: Params, batch: Batch) -> Array:
    """Return float32 [B,1,4]: nats of the right class, weight, the right class and the one of the highest score."""
    outputs = model.apply(params, batch, key=None)
    return _beside(outputs, *heads.of_texts(batch, jnp.int32))[:, None]


def tokens(model: Model, params: Params, batch: Batch) -> Array:
    """Return float32 [B,T,4] as `texts`, of each token."""
    outputs = model.apply(params, batch, key=None)
    return _beside(outputs, *heads.of_tokens(batch))


def numbers(model: Model, params: Params, batch: Batch) -> Array:
    """Return float32 [B,1,4]: the squared error, weight, the right number and the one that was said."""
    said = heads.scores(model.apply(params, batch, key=None))[:, 0]
    right, weights = heads.of_texts(batch, jnp.float32)
    return jnp.stack([jnp.square(said - right), weights, right, said], axis=-1)[:, None]


def _beside(outputs: Outputs, right: Array, weights: Array) -> Array:
    scores = heads.scores(outputs)
    nll = -(jax.nn.log_softmax(scores) * jax.nn.one_hot(right, scores.shape[-1])).sum(-1)
    return jnp.stack([nll, weights, right, scores.argmax(-1)], axis=-1).astype(jnp.float32)


def classes(labels: Sequence[str], sums: Callable[[Batch], Array], batches: Iterable[Batch]) -> dict[str, Estimate]:
    """Return `loss` (nats), `accuracy`, macro `precision`, `recall` and `f1`, and of each class and pair of classes.

    The last are called "f1/CLASS" (precision, recall, and support, which counts) and "confusion/RIGHT/SAID", of pairs
    that occur. The errors of the first two are over rows, tokens of one text depending on each other.

    Args:
        labels: names of the classes.
        sums: batch -> [B,T,4], `texts` or `tokens` with model and parameters bound, jitted.
        batches: every row once; padding has weight 0.
    """
    found = [np.asarray(sums(batch), np.float64) for batch in batches]
    weights = np.concatenate([rows[..., 1].sum(1) for rows in found])
    nats, correct = (
        np.concatenate([(value(rows) * rows[..., 1]).sum(1) for rows in found])
        for value in (lambda rows: rows[..., 0], lambda rows: rows[..., 2] == rows[..., 3])
    )
    kept = weights > 0
    each = np.concatenate([rows[rows[..., 1] > 0] for rows in found])
    matrix = confusion(each[:, 2].astype(int), each[:, 3].astype(int), len(labels))
    by_class, support = per_class(matrix), matrix.sum(1)
    occurs = (matrix.sum(0) + support) > 0
    loss = ratio(nats[kept], weights[kept])
    result = {"loss": loss, "accuracy": ratio(correct[kept], weights[kept])}
    for name, values in by_class.items():
        result[name] = Estimate(float(values[occurs].mean()), loss.count, math.nan)
    for i, label in enumerate(labels):
        for name, values in by_class.items():
            result[f"{name}/{label}"] = Estimate(float(values[i]), float(support[i]), math.nan)
        result[f"support/{label}"] = Estimate(float(support[i]), float(support[i]), math.nan)
    for i, j in zip(*np.nonzero(matrix), strict=True):
        result[f"confusion/{labels[i]}/{labels[j]}"] = Estimate(float(matrix[i, j]), float(support[i]), math.nan)
    return result


def confusion(right: np.ndarray, said: np.ndarray, classes: int) -> np.ndarray:
    """Return how often a class (row) was called each class (column): int64 [C,C]."""
    return np.bincount(right * classes + said, minlength=classes * classes).reshape(classes, classes)


def per_class(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Return `precision`, `recall` and `f1` of each class, float64 [C] each, of a confusion matrix."""
    hit, said, there = np.diag(matrix).astype(float), matrix.sum(0), matrix.sum(1)
    return {
        "precision": hit / np.maximum(said, 1),
        "recall": hit / np.maximum(there, 1),
        "f1": 2 * hit / np.maximum(said + there, 1),
    }


def table(found: Mapping[str, Estimate], labels: Sequence[str]) -> str:
    """Return the report that `classes` makes as text: a line a class, and what the classes were taken for.

    Of many classes only the pairs that were confused most often are told.
    """

    def value(name: str) -> float:
        return found[name].value if name in found else 0.0

    wide = min(WIDE, max(len("macro mean"), *map(len, labels)))
    names = [label[:wide] for label in labels]
    lines = [f"{'':{wide}}  precision  recall      f1  support"]
    for name, label in zip(names, labels, strict=True):
        scores = [value(f"{kind}/{label}") for kind in (*KINDS, "support")]
        lines.append(f"{name:{wide}}  {scores[0]:9.4f}  {scores[1]:6.4f}  {scores[2]:6.4f}  {scores[3]:7.0f}")
    macro = [value(kind) for kind in KINDS]
    lines.append(
        f"{'macro mean':{wide}}  {macro[0]:9.4f}  {macro[1]:6.4f}  {macro[2]:6.4f}  {found['loss'].count:7.0f}"
    )
    counts = [[round(value(f"confusion/{right}/{said}")) for said in labels] for right in labels]
    return "\n".join([*lines, "", *_confused(names, counts, wide)])


def _confused(names: Sequence[str], counts: Sequence[Sequence[int]], wide: int) -> list[str]:
    """The confusion matrix, or of many classes its largest elements beside the diagonal."""
    if len(names) <= SHOWN:
        room = max(3, *(len(str(count)) for row in counts for count in row))
        top = f"{'right, said':{wide}}  " + " ".join(f"{name[:room]:>{room}}" for name in names)
        rows = [" ".join(f"{n:{room}d}" for n in row) for row in counts]
        return [top, *(f"{name:{wide}}  {row}" for name, row in zip(names, rows, strict=True))]
    pairs = [(n, i, j) for i, row in enumerate(counts) for j, n in enumerate(row) if n and i != j]
    worst = sorted(pairs, reverse=True)[:SHOWN]
    return ["most often confused: right, said", *(f"{names[i]:{wide}}  {names[j]:{wide}}  {n:7d}" for n, i, j in worst)]


def regression(sums: Callable[[Batch], Array], batches: Iterable[Batch]) -> dict[str, Estimate]:
    """Return `loss`, the mean squared error, and the correlations `pearson` and `spearman` of said and right.

    Args:
        sums: batch -> [B,1,4], `numbers` with model and parameters bound, jitted.
        batches: every row once; padding has weight 0.
    """
    rows = np.concatenate([np.asarray(sums(batch), np.float64)[:, 0] for batch in batches])
    rows = rows[rows[:, 1] > 0]
    square, weights, right, said = rows.T
    loss = ratio(square * weights, weights)

    def unsure(r: float) -> Estimate:  # the delta method; of ranks, for want of better
        return Estimate(r, loss.count, (1 - r * r) / math.sqrt(max(1, len(rows) - 1)))

    return {
        "loss": loss,
        "pearson": unsure(correlation(right, said)),
        "spearman": unsure(correlation(ranks(right), ranks(said))),
    }


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Return Pearson's correlation, NaN where one of the two does not vary."""
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale else math.nan


def ranks(x: np.ndarray) -> np.ndarray:
    """Return the rank of each value, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
