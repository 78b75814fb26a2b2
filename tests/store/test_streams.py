"""Arrays saved one by one: the same checkpoint as of all at once, a few in memory, whole or not at all."""

import resource
import weakref

import jax
import ml_dtypes
import numpy as np
import pytest

from llm_jax.core import tree
from llm_jax.core.table import UserError
from llm_jax.store import manifest
from llm_jax.store.checkpoint import Checkpoints
from llm_jax.store.manifest import Leaf


@pytest.fixture
def arrays():
    draw = np.random.default_rng(0)
    found = {f"params/a.b/{i}": draw.standard_normal((4, i), np.float32) for i in range(1, 6)}
    return found | {
        "params/half": draw.standard_normal((8, 3)).astype(ml_dtypes.bfloat16),
        "params/none": np.zeros((0, 4), np.float32),
        "params/number": np.array(7, np.int32),
    }


@pytest.fixture
def forms(arrays):
    return {path: Leaf(a.shape, a.dtype.name) for path, a in arrays.items()}


@pytest.fixture
def store(tmp_path):
    with Checkpoints(tmp_path) as store:
        yield store


def nothing_is_left(store):
    return store.steps() == [] and [path.name for path in store.directory.iterdir()] == ["lock"]


def test_arrays_that_come_in_any_order_are_the_checkpoint_that_they_are_at_once(store, arrays, forms):
    store.stream(3, forms, reversed(arrays.items()), meta={"code_version": "9"})
    store.save(4, tree.unflatten(arrays))
    store.wait()
    found, head = store.restore(step=3)
    assert head.code_version == "9"
    assert head.leaves == {path: manifest.read(store.directory / "4").leaves[path] for path in forms}
    for path, leaf in tree.flatten(found).items():
        assert leaf.dtype == arrays[path].dtype
        np.testing.assert_array_equal(leaf, arrays[path], err_msg=path)
    assert [event["event"] for event in store.events] == ["saved", "saved"]


def test_they_come_back_where_their_shardings_say(store, arrays, forms):
    store.stream(0, forms, arrays.items())
    mesh = jax.make_mesh((4,), ("fsdp",), devices=jax.devices()[:4])
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    wanted = {path: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=rows) for path, a in arrays.items() if a.ndim}
    wanted["params/number"] = arrays["params/number"]
    found, _ = store.restore(tree.unflatten(wanted))
    for path, leaf in tree.flatten(found).items():
        np.testing.assert_array_equal(np.asarray(leaf), arrays[path])
        assert leaf.ndim == 0 or leaf.sharding.is_equivalent_to(rows, leaf.ndim)


def test_an_array_is_let_go_before_the_next_but_one_has_come(store):
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def made():
        nonlocal most
        for i in range(8):
            leaf = np.full(1000, i, np.float32)
            alive.append(weakref.ref(leaf))
            most = max(most, sum(ref() is not None for ref in alive))
            yield str(i), leaf
            del leaf

    store.stream(0, {str(i): Leaf((1000,), "float32") for i in range(8)}, made())
    assert most == 2
    assert not any(ref() is not None for ref in alive)


def test_there_is_no_step_until_all_have_come(store, arrays, forms):
    def watched():
        for item in arrays.items():
            assert store.steps() == []
            yield item

    store.stream(0, forms, watched())
    assert store.steps() == [0]


@pytest.mark.parametrize("after", [0, 1, 4])
@pytest.mark.parametrize("error", [ValueError, UserError, KeyboardInterrupt])
def test_what_goes_wrong_in_making_them_passes_as_it_is(store, arrays, forms, error, after):
    def broken():
        yield from list(arrays.items())[:after]
        raise error("the file ends early")

    with pytest.raises(error, match=r"^the file ends early$"):
        store.stream(0, forms, broken())
    assert nothing_is_left(store)


@pytest.mark.parametrize("what", ["missing", "unknown", "twice", "of another shape", "of another type"])
def test_others_than_were_announced_are_our_mistake(store, arrays, forms, what):
    path = "params/a.b/2"
    others = {
        "missing": [],
        "unknown": [(path, arrays[path]), ("x", arrays[path])],
        "twice": [(path, arrays[path])] * 2,
        "of another shape": [(path, arrays[path].T)],
        "of another type": [(path, arrays[path].astype(np.float64))],
    }[what]
    came = [*((p, a) for p, a in arrays.items() if p != path), *others]
    with pytest.raises(ValueError, match="x" if what == "unknown" else path):
        store.stream(0, forms, came)
    assert nothing_is_left(store)


def test_a_full_disk_is_told_and_nothing_is_left(store, arrays, forms):
    store.stream(1, forms, arrays.items())
    large = np.zeros(10_000, np.float32)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match="could not be saved"):
            store.stream(2, {"a": Leaf((10_000,), "float32")}, [("a", large)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.steps() == [1] and not list(store.directory.glob("*.tmp"))
