"""What the objectives share that write a text from another: which models fit, and ranges of their options."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.core import checks, tree
from llm_jax.core.table import UserError
from llm_jax.core.types import Array, Conditional, Decodes, Model, Params
from llm_jax.mesh.plan import Plan


def check_source(name: str, model: Model) -> None:
    """Refuse a model that does not read `source_tokens`: it would be asked to guess the source of objective `name`."""
    if not isinstance(model, Conditional):
        raise UserError(
            f"objective.name={name!r} needs a model that writes one text from another (an encoder-decoder such as t5 "
            f"or bart), which model.name={type(_family(model)).__name__.lower()!r} is not; "
            "'causal' and 'prefix' fit every decoder"
        )


def check_prefix(model: Model) -> None:
    """Refuse a model that would read a prefix from left to right though it is asked to do so in both directions.

    Raises:
        UserError: it is no decoder, or what it computes does not depend on `prefix`.
    """
    family: Any = _family(model)
    decoder = isinstance(family, Decodes) and not isinstance(family, Conditional)
    if decoder and _heeds_prefix(family):
        return
    raise UserError(
        "objective.bidirectional=True needs a decoder whose attention may see ahead, such as llama or gpt2, which "
        f"model.name={type(family).__name__.lower()!r} is not; leave it out, or set objective.encoded=True "
        "where it is an encoder-decoder"
    )


@cache
def _heeds_prefix(model: Any) -> bool:
    """Whether the hidden states of a batch depend on its `prefix`: of two, `vmap` keeps apart only what differs."""
    shapes = {path: jax.ShapeDtypeStruct(d.shape, d.dtype) for path, d in model.declarations().items()}
    apart: list[bool] = []

    @jax.custom_batching.custom_vmap
    def watched(hidden: Array) -> Array:
        return hidden

    @watched.def_vmap  # called for what has an axis of the two
    def _(size: int, batched: list[bool], hidden: Array) -> tuple[Array, bool]:
        apart.extend(batched)
        return hidden, True

    def hidden(params: Params, prefix: Array) -> Array:
        return watched(model.apply(params, {"tokens": jnp.zeros((1, 4), jnp.int32), "prefix": prefix}).hidden)

    with Plan(unrolled=0).active():
        two = jax.ShapeDtypeStruct((2, 1, 4), bool)
        jax.eval_shape(jax.vmap(hidden, in_axes=(None, 0)), tree.unflatten(shapes), two)
    return any(apart)


def _family(model: Any) -> Any:
    """The member of `MODELS` that a model is, whatever is round it."""
    return _family(model.base) if hasattr(model, "base") else model


def check_corruption(*, rate: float, mean_span: float, sentinels: int) -> None:
    """Refuse shares, lengths and numbers of sentinels that hide nothing, or everything."""
    checks.fraction("objective", rate=rate)
    checks.positive("objective", rate=rate, mean_span=mean_span, sentinels=sentinels)


def check_sentinels(spans: int, sentinels: int, seq_len: int) -> None:
    """Refuse a text with more spans than there are sentinels."""
    if spans > sentinels:
        raise UserError(
            f"objective.sentinels={sentinels}: a text of data.seq_len={seq_len} tokens has {spans} spans; "
            f"set at least {spans}, or a shorter data.seq_len"
        )
