"""Whether a plan fits a model: every mesh axis must split what it is there for, or the plan is refused.

A dimension that its axes do not divide stays whole, on every device alike. Some of that is harmless: vectors, key heads
that groups of queries share, a vocabulary whose size the tokenizer gives. Of the rest it is silent waste: each device
holds, and computes, what the others do. Then the plan is refused, with the nearest of as many devices that fits.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from llm_jax.core.table import UserError
from llm_jax.core.types import Declaration
from llm_jax.mesh.plan import BATCH_AXES, Plan

Sizes = Mapping[str, int]
Rules = Mapping[str, tuple[str, ...]]

SPLIT = {"embed": "width", "heads": "heads", "mlp": "hidden units", "expert": "experts"}
FREE = ("data", "fsdp", "tensor", "expert")  # what the nearest plan may change
HARMLESS = 0.1  # of the parameters that an axis is there to split


def check(plan: Plan, declared: Mapping[str, Declaration], rows: Sequence[int] = ()) -> None:
    """Refuse a plan that leaves whole what it means to split.

    Args:
        plan: over any devices.
        declared: the parameters of the model.
        rows: numbers of rows that must divide into the shards of a batch, for the nearest plan.

    Raises:
        UserError: why, and the nearest plan that fits.
    """
    if plan.mesh is None:
        return
    sizes, rules = dict(plan.mesh.shape), {**plan.rules, **plan.state_rules}
    why = misfit(sizes, rules, declared)
    if why is None:
        return
    found = nearest(sizes, rules, declared, rows)
    text = "no other fits" if found is None else f"the nearest that fits is {_flags(found)}"
    raise UserError(f"{why}; of plans of {math.prod(sizes.values())} devices {text}")


def misfit(sizes: Sizes, rules: Rules, declared: Mapping[str, Declaration]) -> str | None:
    """Return why these sizes of mesh axes do not fit, or None."""
    for name, what in SPLIT.items():
        axes = [a for a in rules[name] if sizes.get(a, 1) > 1]
        if not axes:
            continue
        text, parts = " x ".join(f"mesh.{a}={sizes[a]}" for a in axes), math.prod(sizes[a] for a in axes)
        held = [(math.prod(d.shape), d.shape[d.axes.index(name)], p) for p, d in declared.items() if name in d.axes]
        whole = [entry for entry in held if entry[1] % parts]
        if sum(n for n, *_ in whole) > HARMLESS * sum(n for n, *_ in held):
            _, size, path = max(whole)
            return f"{text} does not divide the {size} {what} of {path}, and each device would hold all of them"
        if not held and not any(a in rules[other] for other in SPLIT for a in axes if _has(other, declared)):
            return f"{text} splits nothing of this model, which has no {what}"
    return None


def _has(name: str, declared: Mapping[str, Declaration]) -> bool:
    return any(name in d.axes for d in declared.values())


def nearest(
    sizes: Sizes, rules: Rules, declared: Mapping[str, Declaration], rows: Sequence[int] = ()
) -> dict[str, int] | None:
    """Return the plan of as many devices that fits and whose axes differ least, in factors of two; or None.

    Of equally near ones that which splits parameters most, and then rows.
    """
    fitting = [
        found
        for found in _plans(sizes)
        if not any(r % math.prod(found.get(a, 1) for a in BATCH_AXES) for r in rows)
        and misfit(found, rules, declared) is None
    ]
    return min(fitting, key=lambda found: (_distance(found, sizes), -found["fsdp"], -found["data"]), default=None)


def _plans(sizes: Sizes) -> Iterator[dict[str, int]]:
    """All ways to share the devices of the free axes among them."""
    devices = math.prod(sizes.get(a, 1) for a in FREE)
    factors = [n for n in range(1, devices + 1) if devices % n == 0]
    for data, fsdp, tensor in product(factors, repeat=3):
        if devices % (data * fsdp * tensor) == 0:
            expert = devices // (data * fsdp * tensor)
            yield {**sizes, "data": data, "fsdp": fsdp, "tensor": tensor, "expert": expert}


def _distance(one: Sizes, other: Sizes) -> float:
    return sum(abs(math.log2(one.get(a, 1) / other.get(a, 1))) for a in FREE)


def _flags(sizes: Sizes) -> str:
    return " ".join(f"--config.mesh.{a}={n}" for a, n in sizes.items() if n > 1 or a == "data")
