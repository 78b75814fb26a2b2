"""How differently a classifier treats groups: the largest gap between any two (Hardt et al. 2016; Agarwal et al. 2018).

All are of two classes, 1 the favourable one; of several classes ask once a class, by `labels == c`. 0 is equal.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_jax.core.table import UserError


def demographic_parity(predictions: Sequence[Any], groups: Sequence[Any]) -> float:
    """Return the gap in how often a group is predicted the favourable class, from 0 to 1."""
    predicted, group = _binary(predictions, "predictions"), _alike(predictions, groups)
    return _gap(predicted, np.ones(len(predicted), bool), group)


def equalized_odds(labels: Sequence[Any], predictions: Sequence[Any], groups: Sequence[Any]) -> float:
    """Return the larger of the gaps in true positive and in false positive rates.

    Raises:
        UserError: a group has no row of one of the classes, whose rate is then nothing.
    """
    right, predicted = _binary(labels, "labels"), _binary(predictions, "predictions")
    group = _alike(predictions, groups)
    return max(_gap(predicted, right, group), _gap(predicted, ~right, group))


def equal_opportunity(labels: Sequence[Any], predictions: Sequence[Any], groups: Sequence[Any]) -> float:
    """Return the gap in true positive rates."""
    right, predicted = _binary(labels, "labels"), _binary(predictions, "predictions")
    return _gap(predicted, right, _alike(predictions, groups))


def accuracy_gap(labels: Sequence[Any], predictions: Sequence[Any], groups: Sequence[Any]) -> float:
    """Return the gap in accuracy; of any classes."""
    right = np.asarray(labels) == np.asarray(predictions)
    return _gap(right, np.ones(len(right), bool), _alike(predictions, groups))


def _gap(what: np.ndarray, among: np.ndarray, group: np.ndarray) -> float:
    """Return the largest difference between groups in the share of `what`, among the rows that are asked about."""
    rates = []
    for name in np.unique(group):
        rows = among & (group == name)
        if not rows.any():
            raise UserError(f"group {str(name)!r} has no row to judge by; leave it out, or gather more")
        rates.append(what[rows].mean())
    return float(max(rates) - min(rates))


def _binary(values: Sequence[Any], what: str) -> np.ndarray:
    array = np.asarray(values)
    wrong = next((v for v in array.tolist() if v not in (0, 1)), None)
    if wrong is not None or array.size == 0:
        raise UserError(f"{what} hold {wrong!r}; give 0 and 1, at least one (of several classes: once a class)")
    return array.astype(bool)


def _alike(values: Sequence[Any], groups: Sequence[Any]) -> np.ndarray:
    if len(values) != len(groups):
        raise UserError(f"{len(values)} predictions and {len(groups)} groups; give one of each a row")
    return np.asarray(list(groups))
