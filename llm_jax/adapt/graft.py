"""Parameters of one model as those of another that differs in its vocabulary: old rows stay, new ones are their mean.

A new token whose row is the mean of all changes the softmax least (Hewitt 2021, "Initializing new word embeddings for
pretrained language models").
"""

from collections.abc import Mapping

import numpy as np

from llm_jax.core.table import UserError, nearest
from llm_jax.core.types import Declaration

SHOWN = 20


def graft(found: Mapping[str, np.ndarray], declared: Mapping[str, Declaration]) -> dict[str, np.ndarray]:
    """Return arrays as they are declared, made of those found.

    Args:
        found: path -> array of the other model.
        declared: path -> what is wanted.

    Raises:
        UserError: a path that is missing or superfluous, or a shape that differs in more than a larger vocabulary; the
            list of them.
    """
    problems = [f"{p} is not wanted" for p in found if p not in declared]
    whole: dict[str, np.ndarray] = {}
    for path, d in declared.items():
        if path not in found:
            problems.append(f"{path} {list(d.shape)} is missing{nearest(path, found)}")
        elif not _grows(found[path].shape, d):
            problems.append(f"{path} has shape {list(found[path].shape)}, and {list(d.shape)} is wanted")
        elif not problems:
            whole[path] = grown(found[path], d.shape)
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise UserError(
            "the parameters of init_from do not fit; only a vocabulary may grow:\n  "
            + "\n  ".join(problems[:SHOWN] + more)
        )
    return whole


def _grows(shape: tuple[int, ...], d: Declaration) -> bool:
    """Whether a shape is the declared one but for fewer rows of a vocabulary."""
    return len(shape) == len(d.shape) and all(
        old == new or (axis == "vocab" and old < new) for old, new, axis in zip(shape, d.shape, d.axes, strict=True)
    )


def grown(leaf: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a leaf of a larger shape; along each dimension that grows, what is new is the mean of what there was."""
    for axis, size in enumerate(shape):
        more = size - leaf.shape[axis]
        if more:
            mean = leaf.mean(axis=axis, keepdims=True, dtype=np.float64).astype(leaf.dtype)
            leaf = np.concatenate([leaf, np.repeat(mean, more, axis=axis)], axis=axis)
    return leaf
