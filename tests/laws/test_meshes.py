"""One loss and one gradient on every plan of eight simulated devices, and on one.

Every family goes over the sample of the plans; the others are marked `exhaustive` (make test-mesh).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from llm_jax.core import tree
from llm_jax.mesh import plan
from llm_jax.mesh.hosts import to_devices
from tests.laws.plans import BATCH, PLANS, SAMPLE, TOLERANCE, alone, differences, layout, on


def over(plans, sample=SAMPLE):
    """Run a law over plans, all but a sample of them when everything is run."""
    marks = {text: () if text in sample else pytest.mark.exhaustive for text in plans}
    return pytest.mark.parametrize("text", [pytest.param(text, marks=m, id=text) for text, m in marks.items()])


def agree(found, expected):
    far = {path: d for path, d in differences(found[:2], expected).items() if d > TOLERANCE}
    assert not far, far


@pytest.mark.rotates(4)
@pytest.mark.of("deep")
@over(PLANS)
def test_a_plan_changes_no_loss_and_no_gradient(family, text):
    model, params, expected = alone(family)
    found = on(layout(text), model, params)
    agree(found, expected)
    assert any(op in found[2] for op in ("all-reduce", "all-gather"))  # it was not one device eight times


@pytest.mark.rotates(12)
@pytest.mark.of("deep")
def test_no_array_is_gathered_in_silence(family):
    """Which Explicit axes turn into an error."""
    model, params, expected = alone(family)
    agree(on(layout("data2 fsdp2 tensor2 explicit"), model, params), expected)


@pytest.mark.rotates(2)
@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3"])
def test_tokens_travel_where_experts_are_split(family):
    model, params, expected = alone(family)
    found = on(layout("data2 expert2 tensor2"), model, params)
    agree(found, expected)
    assert "all-to-all" in found[2]


@pytest.mark.rotates(12)
@pytest.mark.of("deep")
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_a_mesh_of_one_device_is_no_mesh(family, kind):
    """Which `build` would do without."""
    devices = np.array(jax.devices()[:1]).reshape((1,) * len(plan.AXES))
    one = plan.Plan(mesh=Mesh(devices, plan.AXES, axis_types=(kind,) * len(plan.AXES)))
    model, params, expected = alone(family)
    agree(on(one, model, params), expected)


@pytest.mark.rotates(12)
@pytest.mark.of("deep")
@over(("data8", "fsdp8", "fsdp2 tensor4", "data2 expert4", "data2 fsdp2 tensor2"))
def test_initial_values_are_the_same_bits_on_every_plan(model, text):
    def init(place):
        with place.active():
            shardings = place.shardings(model.declarations())
            made = jax.jit(model.init, out_shardings=tree.unflatten(shardings))(jax.random.key(0))
            return made, shardings

    (expected, _), (made, shardings) = init(plan.Plan()), init(layout(text))
    assert {path: leaf.sharding for path, leaf in tree.flatten(made).items()} == shardings
    jax.tree.map(np.testing.assert_array_equal, made, expected)
    assert any(not s.is_fully_replicated for s in shardings.values()) or "8" in text or "expert" in text


@pytest.mark.rotates(12)
@pytest.mark.of("deep")
def test_params_and_activations_are_split_over_the_mesh(model, params):
    """Of 2x2x2 devices each holds a quarter of every large matrix, and the batch in quarters."""
    place = layout("data2 fsdp2 tensor2")
    declared = model.declarations()
    for path, sharding in place.shardings(declared).items():
        names, shape = declared[path].axes, declared[path].shape
        local = np.prod(sharding.shard_shape(shape)) / np.prod(shape)
        split = ("embed" in names, bool({"mlp", "heads", "kv", "vocab"} & set(names)))
        assert local == 0.5 ** sum(split), path
    with place.active():
        assert to_devices(BATCH, 8)["tokens"].sharding.shard_shape((8, 12)) == (2, 12)
        logits = jax.jit(lambda p, b: model.apply(p, b).logits)(params, to_devices(BATCH, 8))
    assert logits.sharding.shard_shape(logits.shape) == (2, 12, 20)


@pytest.mark.rotates(12)
@pytest.mark.of("decoder")
@over(("data8", "fsdp8", "tensor8", "data2 tensor4", "fsdp2 tensor4", "data2 expert4", "data2 fsdp2 tensor2"))
def test_cached_decoding_agrees_on_every_plan(model, params, text):
    def decode(params, tokens):
        out, cache = model.prefill(params, {"tokens": tokens[:, :8]}, model.empty_cache(8, 12))
        more, _ = model.extend(params, tokens[:, 8:], cache)
        return jnp.concatenate([out.logits, more.logits], axis=1)

    expected = jax.jit(lambda p, t: model.apply(p, {"tokens": t}).logits)(params, BATCH["tokens"])
    with (place := layout(text)).active():
        placed = jax.device_put(params, tree.unflatten(place.shardings(model.declarations())))
        found = jax.jit(decode)(placed, to_devices({"tokens": BATCH["tokens"]}, 8)["tokens"])
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())
