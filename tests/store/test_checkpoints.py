"""What is saved comes back bit for bit, placed as asked, or the user is told why not."""

import warnings

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from llm_jax.core import tree
from llm_jax.core.table import UserError
from llm_jax.core.types import State
from llm_jax.store.checkpoint import Checkpoints
from llm_jax.store.retention import Keep


def bits(leaf):
    """The raw bytes of a leaf, so that NaNs and signed zeros compare too."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def same(one, other):
    """Whether two trees have the same paths, dtypes, shapes and bits."""
    a, b = ([(path, x.shape, str(x.dtype), bits(x)) for path, x in tree.flatten(t).items()] for t in (one, other))
    return a == b


def state(seed=0):
    """A State with all that one may hold: many dtypes, scalars, odd floats, keys, empty dictionaries, named tuples."""
    normal = jax.random.normal(jax.random.key(seed), (16, 8))
    params = {
        "embed": {"table": normal, "odd.name %": jnp.array([jnp.nan, -0.0, jnp.inf])},
        "blocks": [{"kernel": normal.astype(jnp.bfloat16)}, {"kernel": normal.T + seed}],
        "none": {},
    }
    extra = {
        "flags": jnp.arange(5) % 2 == 0,
        "keys": jax.random.split(jax.random.key(seed, impl="rbg"), 3),
        "numpy": np.arange(3, dtype=np.int64) + 2**40,
        "small": jnp.ones((2, 3), ml_dtypes.float8_e4m3fn),
        "empty": jnp.zeros((0, 4), jnp.bfloat16),
        "int4": jnp.arange(6).astype(jnp.int4) - 3,
        "complex": jnp.array([1 - 2j]),
    }
    opt = optax.adamw(1e-3).init({k: v for k, v in params.items() if k != "none"})
    return State(jnp.int32(seed), params, opt, jax.random.key(seed), extra)


def abstract(like):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like)


def placed(like):
    """Abstract leaves with the shardings that the arrays have."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)), like)


@pytest.fixture
def store(tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        yield checkpoints


@pytest.mark.parametrize("form", [abstract, placed, lambda s: s])
def test_a_state_comes_back_bit_for_bit(store, form):
    saved = state(3)
    store.save(3, saved, meta={"data_position": 11, "config_hash": "c"}, metrics={"loss": jnp.float32(1.5)})
    found, manifest = store.restore(form(saved))
    assert same(found, saved)
    assert (manifest.step, manifest.data_position, manifest.config_hash) == (3, 11, "c")
    assert manifest.metrics == {"loss": 1.5}
    assert manifest.prng["key"] == {"impl": "threefry2x32", "data": [0, 3]}
    assert np.array_equal(jax.random.normal(found.key, (2,)), jax.random.normal(saved.key, (2,)))


def test_python_numbers_come_back_as_arrays_of_no_dimensions(store):
    saved = {"count": 7, "rate": 0.1, "on": True}
    store.save(1, saved)
    found, _ = store.restore(saved)
    assert found == saved and all(isinstance(x, np.ndarray) and x.shape == () for x in found.values())


def test_numbers_of_another_byte_order_come_back_in_this_machines(store):
    store.save(1, {"a": np.arange(3, dtype=">f4")})
    found = store.restore(step=1)[0]["a"]
    assert found.dtype == np.float32 and found.tolist() == [0, 1, 2]


def test_leaves_come_back_where_their_shardings_say(store):
    saved = {"w": jnp.arange(64.0).reshape(8, 8), "b": jnp.ones(3, jnp.bfloat16), "key": jax.random.key(1)}
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    everywhere = NamedSharding(mesh, PartitionSpec())
    here = {"w": NamedSharding(mesh, PartitionSpec("b")), "b": everywhere, "key": everywhere}
    there = here | {"w": NamedSharding(mesh, PartitionSpec("a", "b")), "b": SingleDeviceSharding(jax.devices()[5])}
    store.save(1, jax.device_put(saved, here))
    wanted = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=there[name]) for name, x in saved.items()}
    found, _ = store.restore(wanted)
    assert same(found, saved)
    assert {name: x.sharding for name, x in found.items()} == there
    again, _ = store.restore({**wanted, "b": jax.ShapeDtypeStruct((3,), jnp.bfloat16)})
    assert isinstance(again["b"], np.ndarray)


def test_a_part_is_read_without_the_rest(store, monkeypatch):
    saved = state(2)
    store.save(2, saved)
    from llm_jax.store import arrays

    asked: list[str] = []
    read = arrays.read

    def spy(directory, leaves, shardings):
        asked.extend(leaves)
        return read(directory, leaves, shardings)

    monkeypatch.setattr(arrays, "read", spy)
    params, _ = store.restore(saved.params, part="params")
    assert same(params, saved.params)
    assert asked and all(path.startswith("params/") for path in asked)
    assert same(store.restore(saved.params["embed"], part="params/embed")[0], saved.params["embed"])
    assert store.restore(part="step")[0] == 2
    plain, _ = store.restore(part="params")
    assert tree.flatten(plain).keys() == tree.flatten(saved.params).keys()
    assert isinstance(plain["blocks"]["0"]["kernel"], np.ndarray)
    with pytest.raises(UserError, match=r"no part 'param'.*did you mean 'params'"):
        store.restore(part="param")


def test_another_model_is_refused_by_its_first_differences(store, monkeypatch):
    store.save(1, {"a": jnp.ones((2, 3)), "b": jnp.ones(4), "c": jnp.ones(1)})
    store.wait()
    monkeypatch.setattr("llm_jax.store.arrays.read", lambda *_: pytest.fail("arrays were read"))
    wrong = {"a": jnp.ones((3, 2)), "b": jnp.ones(4, jnp.bfloat16), "d": jnp.ones(1)}
    with pytest.raises(UserError) as error:
        store.restore(wrong)
    for line in ["a: shape (3, 2) is wanted, (2, 3) was saved", "b: dtype bfloat16 is wanted, float32 was saved"]:
        assert line in str(error.value)
    assert "d: is not in the checkpoint" in str(error.value) and "c: is only in the checkpoint" in str(error.value)
    assert store.steps() == [1]


def test_there_may_be_no_checkpoint(store):
    with pytest.raises(UserError, match="there is no checkpoint in"):
        store.restore({})
    store.save(4, {"a": jnp.ones(1)})
    with pytest.raises(UserError, match=r"no checkpoint of step 5 .*\[4\]"):
        store.restore({"a": jnp.ones(1)}, step=5)


@pytest.mark.parametrize("bad", [{"a/b": 1, "a": {"b": 2}}, {"..": 1}, {"a": "text"}, {"a": object()}])
def test_a_state_that_could_not_come_back_is_refused_at_once(store, bad):
    with pytest.raises(UserError, match="the state"):
        store.save(1, bad)
    assert store.steps() == []


def test_saves_are_not_disturbed_by_steps_that_reuse_the_buffers(store):
    update = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    mesh = jax.make_mesh((8,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("a"))
    store.keep = Keep(last=100)
    current = {"w": jnp.zeros((256, 64)), "s": jax.device_put(jnp.zeros((64, 64)), sharding), "n": jnp.zeros(())}
    form = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), current)
    for step in range(8):
        store.save(step, current)
        for _ in range(3):
            current = update(current)
    for step in range(8):
        found, _ = store.restore(form, step=step)
        assert all((leaf == 3 * step).all() for leaf in found.values())


def test_what_is_kept_is_the_same_over_restarts(tmp_path):
    losses = [9.0, 1.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0]
    for step, loss in enumerate(losses):
        with Checkpoints(tmp_path, Keep(last=2, every=4, best="loss")) as store:
            store.save(step, {"a": jnp.float32(step)}, metrics={"loss": loss})
    assert store.steps() == [0, 1, 4, 6, 7]
    assert store.latest() == 7
    assert [store.restore({"a": jnp.float32(0)}, step=s)[0]["a"] for s in store.steps()] == [0, 1, 4, 6, 7]


def test_a_step_saved_again_is_replaced(store):
    for value in (1.0, 2.0):
        store.save(5, {"a": jnp.float32(value)})
    assert store.restore({"a": jnp.float32(0)})[0]["a"] == 2.0
    assert store.steps() == [5]


@pytest.mark.parametrize(("loss", "stay"), [(0.5, [2]), (3.0, [1, 2])])
def test_a_step_may_be_judged_after_it_is_saved(loss, stay, tmp_path):
    with Checkpoints(tmp_path, Keep(last=1, best="loss")) as store:
        store.save(1, state(1), metrics={"loss": 1.0})
        store.save(2, state(2))
        store.wait()
        assert store.steps() == [1, 2]
        store.add_metrics(2, {"loss": loss})
        assert store.steps() == stay
        found, manifest = store.restore(abstract(state(2)))
        assert same(found, state(2)) and manifest.metrics == {"loss": loss}
        store.add_metrics(3, {"loss": 0.0})  # its save failed, say
        assert store.steps() == stay and store.last_error is None


def test_every_outcome_is_reported(tmp_path):
    heard: list[dict] = []
    with Checkpoints(tmp_path, Keep(last=1), heard.append) as store:
        store.save(1, {"a": jnp.ones(2)})
        store.save(2, {"a": jnp.ones(2)})
    assert [(e["event"], e["step"]) for e in heard] == [("saved", 1), ("saved", 2), ("removed", 1)]
    assert store.events == heard and store.last_error is None


def test_an_unknown_field_of_the_manifest_is_our_mistake(store):
    with pytest.raises(TypeError, match="data_positon"):
        store.save(1, {"a": jnp.ones(2)}, meta={"data_positon": 3})


def test_nothing_is_deprecated(store):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.save(1, state())
        assert same(store.restore(placed(state()))[0], state())


def test_where_there_is_no_rename_a_step_counts_from_its_manifest(tmp_path, monkeypatch):
    from llm_jax.store import files

    monkeypatch.setattr(files, "is_local", lambda path: False)
    (tmp_path / "9").mkdir()  # a save that was killed
    with Checkpoints(tmp_path, Keep(last=1)) as store:
        for step, value in ((1, 1.0), (2, 2.0), (2, 3.0)):
            store.save(step, {"a": jnp.float32(value)})
        found, manifest = store.restore({"a": jnp.float32(0)})
    assert (manifest.step, found["a"], store.last_error) == (2, 3.0, None)
    assert store.steps() == [2]
