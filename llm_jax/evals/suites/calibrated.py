"""Whether the next token, or a text's class, is told with the confidence that it deserves, over what is held out."""

from collections.abc import Callable, Hashable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.core import checks
from llm_jax.core.table import UserError
from llm_jax.core.targets import targets_and_weights
from llm_jax.core.types import Array, Batch, Model, Params
from llm_jax.decode.sample import layout
from llm_jax.decode.score import in_pieces
from llm_jax.evals.bootstrap import bootstrap
from llm_jax.evals.perplexity import Estimate, ratio
from llm_jax.evals.suites.calibration import BINS, binned, expected_error
from llm_jax.evals.suites.case import Case
from llm_jax.evals.suites.classified import classified
from llm_jax.mesh import hosts


def calibrated(argument: str) -> Callable[[Case], dict[str, Estimate]]:
    """Return what tells the expected calibration error `ece` of the likeliest next token, its accuracy and confidence.

    Of a classifier it is the class of each text. The argument is the number of bins, 15 by default. The error's
    interval is over rows of text; the estimate is biased upwards where bins have few tokens.

    Raises:
        UserError: the argument is no whole number above 0.
    """
    if argument and not argument.isdecimal():
        raise UserError(f"calibration:{argument}: the argument is the number of bins, such as calibration:{BINS}")
    bins = int(argument) if argument else BINS
    checks.positive("calibration", bins=bins)
    return partial(_judged, bins)


def _judged(bins: int, case: Case) -> dict[str, Estimate]:
    if case.examples() is not None:
        said = classified(case)
        rows = binned(said.confidence, said.right == said.said, bins)
    else:
        asked = (sums(case.model, case.params, batch, bins=bins, layout=layout()) for batch in case.batches())
        rows = np.concatenate([hosts.whole(found) for found in asked]).astype(np.float64)  # [N,M,3]
    rows = rows[rows[:, :, 0].sum(axis=1) > 0]
    weight, confidence, correct = np.moveaxis(rows.sum(axis=1), 1, 0)
    return {
        "ece": bootstrap(expected_error, rows, count=weight.sum()),
        "accuracy": ratio(correct, weight),
        "confidence": ratio(confidence, weight),
    }


@partial(jax.jit, static_argnames=("model", "bins", "layout"))
def sums(model: Model, params: Params, batch: Batch, *, bins: int, layout: Hashable) -> Array:
    """Return float32 [B,M,3]: the weight, confidence and correctness of each row's tokens, summed in each bin."""
    targets, weights = targets_and_weights(batch)
    outputs = model.apply(params, batch, key=None)

    def piece(hidden: Array, target: Array, weight: Array) -> Array:
        logits = outputs.head(hidden).astype(jnp.float32)
        confidence = jnp.exp(logits.max(-1) - jax.nn.logsumexp(logits, axis=-1))
        at = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
        columns = jnp.stack([jnp.ones_like(weight), confidence, logits.argmax(-1) == target], axis=-1)
        return jnp.einsum("btm,btc->bmc", jax.nn.one_hot(at, bins), columns * weight[..., None])

    summed: Array = in_pieces(piece, outputs.hidden, targets, weights).sum(axis=0)
    return summed
