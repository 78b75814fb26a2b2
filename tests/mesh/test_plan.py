"""Plans: sizes that fit or a reason why not, and logical names turned into shardings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from llm_jax.core.table import UserError
from llm_jax.core.types import Declaration
from llm_jax.mesh import plan
from llm_jax.mesh.hosts import to_devices
from llm_jax.mesh.place import batch_sharding, place, spec


def test_one_axis_takes_what_the_others_leave():
    assert plan.mesh_shape({"data": -1, "tensor": 2}, 8) == {"data": 4, "tensor": 2}
    assert plan.mesh_shape({"fsdp": 8}, 8) == {"fsdp": 8}
    assert plan.mesh_shape({}, 1) == {}


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [
        ({"dta": 8}, "mesh.dta is not a mesh axis"),
        ({"data": -1, "fsdp": -1}, "at most one is -1"),
        ({"data": 0}, "above zero"),
        ({"data": -2, "fsdp": -1}, "above zero"),
        ({"data": 3}, "needs 3 device"),
        ({"data": 3, "fsdp": -1}, "needs a multiple of 3 device"),
        ({}, "needs 1 device"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_are_refused(sizes, complaint):
    with pytest.raises(UserError, match=complaint):
        plan.mesh_shape(sizes, 8)


@pytest.mark.parametrize(("option", "value"), [("dtype", "float16"), ("remat", "some")])
def test_unknown_names_are_refused_with_the_known_ones(option, value):
    with pytest.raises(UserError, match=f"{value}.*is not one of"):
        plan.build({"data": 8}, **{option: value})


def test_a_pipeline_on_explicit_axes_is_refused():
    with pytest.raises(UserError, match=r"mesh\.stage=2: this needs Auto axes"):
        plan.build({"stage": 2, "data": 4}, explicit=True)


def test_a_stage_is_a_block_of_neighbours():
    """What sums within a stage crosses no slower link than what goes from stage to stage."""
    devices = plan.build({"slice": 2, "stage": 2, "tensor": 2}).mesh.devices
    assert [d.id for d in devices.flat] == list(range(8))
    assert [[d.id for d in group.flat] for group in devices.reshape(4, 2)] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert [d.id for d in devices[1, 1].flat] == [6, 7]


def test_one_device_has_no_mesh():
    alone = plan.build({"data": -1}, devices=jax.devices()[:1])
    assert alone.mesh is None and alone.batch_shards == 1
    with alone.active():
        x = jnp.ones(3)
        assert place(x, "embed") is x and spec("embed") is None


def test_names_become_axes_and_what_does_not_divide_stays_whole():
    layout = plan.build({"data": 2, "fsdp": 2, "tensor": 2})
    assert layout.spec(("batch", "seq", "act_heads", None), (8, 3, 4, 5)) == P(("data", "fsdp"), None, "tensor", None)
    assert layout.spec(("embed", "heads", "head"), (16, 3, 5)) == P("fsdp", None, None)
    assert layout.spec(("batch",), (6,)) == P(None)
    assert layout.batch_shards == 4
    with pytest.raises(KeyError, match="'width' has no rule"):
        layout.spec(("width",))


def test_declared_parameters_get_their_shardings_by_path():
    layout = plan.build({"fsdp": 4, "tensor": 2})
    declared = {"mlp/up": Declaration((16, 6), ("embed", "mlp"), lambda key, shape: jnp.zeros(shape))}
    assert layout.shardings(declared)["mlp/up"].shard_shape((16, 6)) == (4, 3)
    assert plan.Plan().shardings(declared) == {"mlp/up": None}


def test_a_plan_is_active_only_inside():
    before, layout = plan.current(), plan.build({"data": 8}, remat="full")
    with pytest.raises(RuntimeError), layout.active():
        assert plan.current() is layout and spec("batch") == P("data")
        raise RuntimeError
    assert plan.current() is before


@pytest.mark.parametrize("explicit", [False, True], ids=["auto", "explicit"])
def test_place_lays_out_traced_and_eager_arrays(explicit):
    x = np.arange(32.0, dtype=np.float32).reshape(8, 4)
    with plan.build({"data": 4, "tensor": 2}, explicit=explicit).active():
        for run in (lambda x: place(x, "batch", "act_mlp"), jax.jit(lambda x: place(x * 1, "batch", "act_mlp"))):
            y = run(jnp.asarray(x))
            assert y.sharding.shard_shape(y.shape) == (2, 2)
            np.testing.assert_array_equal(y, x)


def test_inside_shard_map_the_manual_axes_are_left_out():
    with plan.build({"data": 4, "tensor": 2}).active():

        def double(x):
            return 2 * place(x, "batch", "act_mlp")

        rows = {"in_specs": P("data"), "out_specs": P("data"), "axis_names": {"data"}}
        y = jax.jit(jax.shard_map(double, **rows))(jnp.ones((8, 4)))
    np.testing.assert_array_equal(y, np.full((8, 4), 2.0))


def test_a_batch_is_placed_by_rows():
    batch = {"tokens": np.arange(32).reshape(8, 4), "label": np.arange(8), "frames": np.ones((8, 4, 3))}
    with plan.build({"data": 2, "context": 2, "fsdp": 2}).active():
        assert {k: s.spec for k, s in batch_sharding(batch).items()} == {
            "tokens": P(("data", "fsdp"), "context"),
            "label": P(("data", "fsdp")),
            "frames": P(("data", "fsdp"), "context", None),
        }
        placed = to_devices(batch, 8)
        for name, value in batch.items():
            np.testing.assert_array_equal(placed[name], value)
