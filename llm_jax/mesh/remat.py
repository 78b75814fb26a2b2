"""What a backward pass computes again, and what waits for it: on the device, or in the memory of its host.

Chen et al. 2016 (arXiv:1604.06174) compute layers again from their inputs. What is dear to compute and small to keep
has a name, given once where it is made, and a plan may keep it: Korthikanti et al. 2022, §5 (selective recomputation).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from llm_jax.core.table import UserError, nearest
from llm_jax.core.types import Array

WHOLE = ("none", "full", "dots")
LAYER_INPUT = "layer_input"
NAMES = ("query", "key", "value", "attention", "attention_out", "mlp_gate", "mlp_up", "mlp_hidden", "mlp_out", "ssm")
"""Projections before they are turned, the heads' results and their projection; of feed-forward layers the two products
(`mlp_up` alone, of one that has no gate), what they make together, and the result (of experts only this). `ssm`: the
scan of a state-space layer. A name that a layer does not have, or that its backward pass does not need, costs nothing.
"""
OFFLOAD = ("optimizer", "activations")
HOST = "pinned_host"


def named(x: Array, name: str) -> Array:
    """Return `x`, which a plan may keep by `name`, one of NAMES."""
    assert name in NAMES, name
    return checkpoint_name(x, name)


def canonical(remat: str | Sequence[str]) -> str:
    """Return "none", "full", "dots", or the names of what is kept, in order and joined by commas.

    Raises:
        UserError: an unknown name.
    """
    given = _split(remat)
    if len(given) == 1 and given[0] in WHOLE:
        return given[0]
    for name in given:
        if name in WHOLE:
            raise UserError(f"mesh.remat={_said(remat)}: {name} stands alone; leave it or the others out")
        if name not in NAMES:
            known = (*WHOLE, *NAMES)
            raise UserError(
                f"mesh.remat={_said(remat)} is not one of {', '.join(WHOLE)}, nor of the names of what "
                f"may be kept: {', '.join(NAMES)}{nearest(name, known)}"
            )
    if not given:
        raise UserError("mesh.remat names nothing to keep; mesh.remat=full keeps nothing but the inputs of layers")
    return ",".join(name for name in NAMES if name in given)


def kept(remat: str) -> tuple[str, ...]:
    """Return the names that `remat` keeps; () where it is one of WHOLE."""
    return () if remat in WHOLE else _split(remat)


def offloaded(offload: str | Sequence[str] | None, remat: str) -> tuple[str, ...]:
    """Return what goes to the host's memory, of OFFLOAD.

    Raises:
        UserError: an unknown name, or activations where none are computed again.
    """
    given = _split(offload or ())
    for name in given:
        if name not in OFFLOAD:
            raise UserError(f"mesh.offload={_said(offload)}: {name!r} is not one of {', '.join(OFFLOAD)}"
                            f"{nearest(name, OFFLOAD)}")  # fmt: skip
    if "activations" in given and remat == "none":
        raise UserError(
            "mesh.offload=activations sends to the host what mesh.remat keeps, and mesh.remat=none keeps all; set "
            "mesh.remat=full for the inputs of layers, names for these too, or dots for the products"
        )
    return tuple(name for name in OFFLOAD if name in given)


def policy(remat: str, offload: Sequence[str] = ()) -> Callable[..., Any] | None:
    """Return the policy of `jax.checkpoint` by which `remat`, which is not "none", keeps what it keeps.

    With activations in `offload` the inputs of layers and all that is named wait in the host's memory; of "dots" the
    products do.
    """
    policies = jax.checkpoint_policies
    if "activations" in offload:
        if remat == "dots":
            return policies.offload_dot_with_no_batch_dims("device", HOST)
        return policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[], names_which_can_be_offloaded=[LAYER_INPUT, *kept(remat)],
            offload_src="device", offload_dst=HOST,
        )  # fmt: skip
    if remat == "full":
        return None
    if remat == "dots":
        return policies.dots_with_no_batch_dims_saveable
    return policies.save_only_these_names(*kept(remat))


def _split(names: str | Sequence[str]) -> tuple[str, ...]:
    parts = names.split(",") if isinstance(names, str) else names
    return tuple(name for part in parts if (name := str(part).strip()))


def _said(names: Any) -> str:
    return repr(names) if isinstance(names, str) else str(list(names))
