"""What is kept between steps, over plans: ZeRO-1's split optimizer state, and checkpoints that change their plan."""

import functools

import jax
import numpy as np
import pytest

from llm_jax.core import tree
from llm_jax.learn.ema import ema
from llm_jax.learn.gradient import gradient, plain
from llm_jax.mesh import plan
from llm_jax.mesh.hosts import to_devices
from llm_jax.objectives.causal import Causal
from llm_jax.optim.transform import transformation
from llm_jax.run.build import shardings
from llm_jax.store.checkpoint import Checkpoints
from tests.laws.plans import PLANS, TOLERANCE, alone, layout

OPTIMIZERS = {"adamw": {"weight_decay": 0.1}, "muon": {}, "adafactor": {"min_dim_to_factor": 2}}
LAID_OUT = tuple(text for text in PLANS if not {"full", "dots", "explicit"} & set(text.split()))


def learner_of(family, name):
    """Return (learner from drawn parameters, the model)."""
    model, params, _ = alone(family)
    tx = transformation(name, 0.01, clip_norm=1.0, **OPTIMIZERS[name])
    return ema(gradient(plain(model, Causal()), lambda key: params, tx), 0.9), model


def batch(step):
    tokens = np.random.default_rng(step).integers(0, 40, (8, 12)).astype(np.int32)
    return {"tokens": tokens, "targets": np.roll(tokens, -1, axis=1)}


def walked(place, family, name, steps=3):
    """Return the state after some steps of a plan."""
    learner, model = learner_of(family, name)
    with place.active():
        where = shardings(place, model.declarations(), learner)
        state = jax.jit(learner.init, out_shardings=where)(jax.random.key(0))
        update = jax.jit(learner.update, out_shardings=None if where is None else (where, None))
        for step in range(steps):
            state, _ = update(state, to_devices(batch(step), 8))
    return state


@functools.cache
def walked_alone(family, name):
    return walked(plan.Plan(), family, name)


def held(leaf):
    """The share of a leaf that one device holds."""
    return np.prod(leaf.sharding.shard_shape(leaf.shape)) / max(1, leaf.size)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "adamw" else pytest.mark.exhaustive) for n in OPTIMIZERS]
)
def test_zero_1_splits_the_state_alone_and_changes_no_step(name):
    found, expected = walked(layout("data2 fsdp4 zero1"), "llama", name), walked_alone("llama", name)
    for path, wanted in tree.flatten(expected.params).items():
        leaf = tree.flatten(found.params)[path]
        assert leaf.sharding.is_fully_replicated, path
        np.testing.assert_allclose(leaf, wanted, rtol=0, atol=2 * TOLERANCE * np.abs(wanted).max(), err_msg=path)
    for path, leaf in tree.flatten((found.opt, found.extra)).items():
        owner = next((d for p, d in alone("llama")[0].declarations().items() if path.endswith(p)), None)
        if not owner or leaf.ndim < len(owner.shape) or "embed" not in owner.axes:
            continue
        if leaf.shape[owner.axes.index("embed")] > 1:  # not averaged over
            assert held(leaf) == 0.25, path
    leaves = jax.tree.leaves((found.opt, found.extra))
    assert sum(x.nbytes * held(x) for x in leaves) < 0.3 * sum(x.nbytes for x in leaves)


def drawn_state(learner):
    """Random numbers of the form of a state, so that no two leaves are alike."""
    rng = np.random.default_rng(3)

    def draw(x):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.key(9)
        return rng.normal(size=x.shape).astype(x.dtype) if x.ndim else np.asarray(7, x.dtype)

    return jax.tree.map(draw, jax.eval_shape(learner.init, jax.random.key(0)))


def test_a_checkpoint_of_one_plan_is_restored_under_any_other_bit_for_bit(tmp_path, all_laws):
    """Of all ordered pairs of layouts, ZeRO 1 and 3 among them."""
    learner, model = learner_of("mixtral", "adamw")
    state = drawn_state(learner)
    texts = LAID_OUT if all_laws else ("fsdp2 expert4", "fsdp4 tensor2 zero1")
    places = {text: shardings(layout(text), model.declarations(), learner) for text in texts}
    for text, where in places.items():
        with Checkpoints(tmp_path / text) as saved:
            saved.save(1, jax.device_put(state, where))
            saved.wait()
            assert saved.last_error is None
        for other, there in places.items():
            abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, there)
            restored, _ = Checkpoints(tmp_path / text).restore(abstract)
            for (path, found), wanted, sharding in zip(
                tree.flatten(restored).items(), jax.tree.leaves(state), jax.tree.leaves(there), strict=True
            ):
                if path != "key":
                    np.testing.assert_array_equal(found, wanted, err_msg=f"{text} to {other}: {path}")
                assert found.sharding == sharding, f"{text} to {other}: {path}"
            np.testing.assert_array_equal(*(jax.random.key_data(s.key) for s in (restored, state)))
