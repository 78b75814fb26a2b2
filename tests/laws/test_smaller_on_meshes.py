"""Learners and optimizers of smaller and private models over plans: the steps are those of one device."""

import functools
from dataclasses import dataclass

import jax
import numpy as np
import pytest

from llm_jax.core import tree
from llm_jax.learn.gradient import descent
from llm_jax.learn.private import private
from llm_jax.mesh import plan
from llm_jax.mesh.hosts import to_devices
from llm_jax.objectives.causal import Causal
from llm_jax.objectives.taught.distill import Distill
from llm_jax.objectives.taught.soft import Soft
from llm_jax.optim.sparsity import Gradual, Sparsity, pruned
from llm_jax.optim.transform import transformation
from llm_jax.run.build import shardings
from tests.laws.plans import BATCH, PLANS, TOLERANCE, alone, layout
from tests.laws.test_meshes import over

ADAMW = transformation("adamw", 0.01, clip_norm=1.0)
SGD = transformation("sgd", 0.1, clip_norm=1.0)  # makes no large steps of rounding, as Adam does
AUTO = tuple(text for text in PLANS if "explicit" not in text)  # which no configuration asks for
RNG = np.random.default_rng(7)
TAUGHT = BATCH | {
    "teacher_logits": RNG.normal(0, 2, (8, 12, 40)).astype(np.float32),
    "teacher_tokens": np.argsort(RNG.random((8, 12, 40)))[..., :3].astype(np.int32),
    "teacher_log_probs": np.log(RNG.dirichlet(np.ones(4), (8, 12))[..., :3]).astype(np.float32),
}


@dataclass(frozen=True)
class Drawn:
    """A model that begins at drawn parameters."""

    base: object
    params: dict

    def init(self, key):
        return self.params

    def __getattr__(self, name):
        return getattr(self.base, name)


LEARNERS = {
    "half pruned": lambda model: descent(model, Causal(), pruned(ADAMW, Sparsity(0.5), Gradual(1, 3, 1))),
    "2:4 pruned": lambda model: descent(model, Causal(), pruned(ADAMW, Sparsity(0.5, 4), Gradual(1, 3, 1))),
    "distilled": lambda model: descent(model, Distill(), SGD),
    "softly distilled": lambda model: descent(model, Soft(), SGD),
    "private": lambda model: private(model, Causal(), SGD, clip_norm=0.1, noise=0.5, expected=4.0, microbatches=2),
}


def walked(place, family, kind, steps=3):
    model, params, _ = alone(family)
    held = Drawn(model, params)
    learner = LEARNERS[kind](held)
    with place.active():
        where = shardings(place, model.declarations(), learner)
        state = jax.jit(learner.init, out_shardings=where)(jax.random.key(0))
        update = jax.jit(learner.update, out_shardings=None if where is None else (where, None))
        for _ in range(steps):
            state, _ = update(state, to_devices(TAUGHT, 8))
    return state.params


@functools.cache
def walked_alone(family, kind):
    return walked(plan.Plan(), family, kind)


@pytest.mark.rotates(5)
@pytest.mark.parametrize("kind", LEARNERS)
@over(AUTO)
def test_a_plan_changes_no_step(kind, text):
    found, expected = walked(layout(text), "llama", kind), walked_alone("llama", kind)
    for path, leaf in tree.flatten(expected).items():
        atol = 2 * TOLERANCE * np.abs(leaf).max()
        np.testing.assert_allclose(tree.flatten(found)[path], leaf, rtol=0, atol=atol, err_msg=path)
