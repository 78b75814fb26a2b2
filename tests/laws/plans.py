"""The table of plans on eight devices, and by how much a plan changes a model's loss and gradient."""

import functools
import re

import jax
import numpy as np

from llm_jax.core import tree
from llm_jax.core.table import lookup
from llm_jax.mesh import plan
from llm_jax.mesh import remat as remats
from llm_jax.mesh.hosts import to_devices
from llm_jax.models import MODELS
from tests.laws.conftest import TINY, drawn

PLANS = (
    "data8", "fsdp8", "tensor8", "data2 fsdp4", "data4 fsdp2", "data2 tensor4", "data4 tensor2", "fsdp2 tensor4",
    "fsdp4 tensor2", "data2 fsdp2 tensor2",
    "slice2 data4", "slice2 fsdp4", "slice2 tensor4", "slice2 fsdp2 tensor2",
    "expert8", "data2 expert4", "fsdp2 expert4", "fsdp4 expert2", "data2 expert2 tensor2", "fsdp2 expert2 tensor2",
    "fsdp8 zero1", "data2 fsdp4 zero1", "fsdp4 tensor2 zero1",
    "fsdp8 full", "data2 fsdp2 tensor2 dots", "data2 expert2 tensor2 full",
    "context2 data4", "context2 fsdp2 tensor2", "context2 expert2 fsdp2",
    "stage2 data4", "stage2 fsdp2 tensor2", "stage2 expert2 tensor2", "context2 stage2 data2",
    "fsdp8 explicit", "data2 expert2 tensor2 explicit",
)  # fmt: skip
"""Sizes of mesh axes; what is recomputed, if anything; zero1 for ZeRO-1; explicit for Explicit axes.

tensor8 divides no heads and expert8 no experts of the tiny models: they stay whole, which `mesh.fit` would refuse.
"""
SAMPLE = ("data2 fsdp2 tensor2",)
TOLERANCE = 1e-5

rng = np.random.default_rng(5)
BATCH = {
    "tokens": rng.integers(0, 40, (8, 12)).astype(np.int32),
    "targets": rng.integers(0, 40, (8, 12)).astype(np.int32),
    "segments": np.repeat(np.array([[1, 1, 2]], np.int32), 4, axis=1).repeat(8, axis=0),
}


def layout(text):
    """Return the plan that a line of the table names."""
    sizes, options = {}, {}
    for word in text.split():
        name, number = re.fullmatch(r"([a-z]+)(\d*)", word).groups()
        if name in plan.AXES:
            sizes[name] = int(number)
        elif name == "zero":
            options["zero"] = int(number)
        elif name in remats.WHOLE:
            options["remat"] = name
        else:
            options[name] = True
    return plan.build(sizes, **options)


def loss(model):
    """Return the function that gives cross-entropy with what the model adds to it, and its gradient."""

    def cross_entropy(params, batch):
        out = model.apply(params, batch)
        logits, aux = out.logits, sum(m.value for m in out.aux.values())
        targets = jax.nn.one_hot(batch["targets"], logits.shape[-1])
        return -(jax.nn.log_softmax(logits) * targets).sum() / batch["targets"].size + aux

    return jax.value_and_grad(cross_entropy)


@functools.cache
def alone(family):
    """Return (model, parameters, (loss, gradient)) of a tiny model on one device.

    Of parameters twice as large, half a unit in their last place changes Gemma 2's gradient by 3e-5, with no plan.
    """
    model = lookup(MODELS, family, "model.name")(**TINY[family])
    params = drawn(model, size=0.15)
    value, gradient = jax.jit(loss(model))(params, BATCH)
    return model, params, (float(value), jax.tree.map(np.asarray, gradient))


def on(place, model, params, batch=BATCH):
    """(loss, gradient, compiled text) with params, gradient and batch laid out by a plan."""
    with place.active():
        shardings, kept = (tree.unflatten(of(model.declarations())) for of in (place.shardings, place.state_shardings))
        placed, batch = jax.device_put(params, shardings), to_devices(batch, 8)
        step = jax.jit(loss(model), out_shardings=(None, kept)).lower(placed, batch).compile()
        value, gradient = step(placed, batch)
        return value, jax.tree.map(np.asarray, gradient), step.as_text()


def differences(found, expected):
    """Return {"loss": …, path: …}: the largest difference of each, over the largest value of the leaf.

    A leaf of less than a hundredth of the whole gradient is measured by that: TOLERANCE of less is finer than the
    float32 numbers that it is a sum of. Where it is zero by symmetry, as of a bias of keys, it is all rounding.
    """
    (value, gradient), (wanted, leaves) = found, (expected[0], tree.flatten(expected[1]))
    largest = max(np.abs(leaf).max() for leaf in leaves.values())
    return {"loss": abs(float(value) - wanted) / abs(wanted)} | {
        path: float(np.abs(a - leaves[path]).max() / max(np.abs(leaves[path]).max(), 1e-2 * largest))
        for path, a in tree.flatten(gradient).items()
    }
