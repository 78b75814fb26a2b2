"""The digest finds any change and does not know how an array was cut."""

import itertools

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_jax.store import digests
from llm_jax.store.digests import Piece, digest, merge, whole

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.int4, np.bool_]
DTYPES += [np.int8, np.uint16, np.int32, np.int64, np.uint64, np.complex64, np.complex128]


def random(shape, dtype, seed=0):
    raw = np.random.default_rng(seed).integers(0, 256, (*shape, 16), np.uint8)
    dtype = np.dtype(dtype)
    if dtype == np.bool_ or dtype == ml_dtypes.int4:
        return (raw[..., 0] % 2).astype(dtype)
    return np.ascontiguousarray(raw[..., : dtype.itemsize]).view(dtype)[..., 0].reshape(shape)


def reference(words):
    """The formula of the module's docstring in Python integers, for elements of at most 64 bits."""
    total = 0
    for i, x in enumerate(words):
        z = (x + i * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 32)) * 0xBF58476D1CE4E5B9 % 2**64
        total += z ^ (z >> 29)
    return total % 2**64


def test_the_digest_is_the_stated_formula():
    x = random((7, 11), np.float32)
    assert digest(whole(x)) == reference(x.view(np.uint32).ravel().tolist())
    long = random((digests.CHUNK + 3,), np.uint16)
    assert digest(whole(long)) == reference(long.tolist())


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_every_changed_element_changes_the_digest(dtype):
    x = random((3, 5), dtype)
    seen = {digest(whole(x))}
    for i in range(x.size):
        y = x.copy()
        if y.dtype == np.bool_ or y.dtype == ml_dtypes.int4:
            y.flat[i] = 1 - int(y.flat[i])
        else:
            y.view(np.uint8).reshape(x.size, -1)[i, -1] ^= 0x80  # the sign bit, which is the hardest one to see
        seen.add(digest(whole(y)))
    assert len(seen) == x.size + 1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 999), st.integers(0, 31), st.integers(0, 2**31))
def test_any_single_bit_flip_is_seen(where, bit, seed):
    x = random((1000,), np.uint32, seed)
    y = x.copy()
    y[where] ^= np.uint32(1 << bit)
    assert digest(whole(x)) != digest(whole(y))


def test_swapped_elements_are_seen_even_where_only_the_sign_differs():
    x = random((400,), np.float64)
    x[1::2] = -x[::2]
    before = digest(whole(x))
    for i in range(0, 400, 2):
        y = x.copy()
        y[[i, i + 1]] = y[[i + 1, i]]
        assert digest(whole(y)) != before


def test_zeros_have_a_digest_that_knows_their_number():
    assert len({digest(whole(np.zeros(n, np.float32))) for n in range(50)}) == 49  # of 0 and of 1 zeros it is 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=0, max_size=4), st.data(), st.sampled_from([np.float32, np.complex128]))
def test_pieces_add_up_to_the_whole_however_it_is_cut(shape, data, dtype):
    x = random(tuple(shape), dtype)
    cuts = [sorted({0, n, *data.draw(st.lists(st.integers(0, n), max_size=2))}) for n in shape]
    grid = [[slice(a, b) for a, b in itertools.pairwise(c)] for c in cuts]
    boxes: list[tuple[slice, ...]] = [()]
    for axis in grid:
        boxes = [(*box, s) for box in boxes for s in axis]
    parts = [{"x": digest(Piece(x[box], box, x.shape))} for box in boxes]
    assert merge(parts) == {"x": digest(whole(x))}


def test_rows_longer_and_shorter_than_a_chunk_agree(monkeypatch):
    x = random((6, 50), np.float32)
    expected = digest(whole(x))
    for chunk in (1, 7, 50, 64, 1000):
        monkeypatch.setattr(digests, "CHUNK", chunk)
        left, right = (
            Piece(x[:, :20], (slice(0, 6), slice(0, 20)), x.shape),
            Piece(x[:, 20:], (slice(0, 6), slice(20, 50)), x.shape),
        )
        assert (digest(left) + digest(right)) % 2**64 == expected


def test_the_memory_layout_does_not_matter():
    x = random((30, 40), np.float32)
    assert digest(whole(np.asfortranarray(x))) == digest(whole(x))


SPECS = [(None, None), ("a", None), (None, "a"), ("a", "b"), (("b", "a"), None), (None, ("a", "b"))]


@pytest.mark.parametrize("spec", SPECS)
def test_sharded_arrays_have_the_digest_of_the_whole(spec):
    from llm_jax.store.arrays import pieces

    x = random((8, 16), ml_dtypes.bfloat16)
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
    assert digests.digests(pieces({"x": jax.device_put(x, sharding)})) == {"x": digest(whole(x))}
