"""safetensors: the same files as the `safetensors` package reads and writes, and nothing that lies about itself."""

import json
import os

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import numpy as foreign

from llm_jax.core.table import UserError
from llm_jax.interop import safetensors
from llm_jax.interop.safetensors import FILE, INDEX, Directory, File, Info, write

SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
DTYPES = st.sampled_from([np.float32, np.float16, np.float64, ml_dtypes.bfloat16, np.int64, np.uint8, np.bool_])
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
TENSORS = st.dictionaries(NAMES.filter(lambda n: n != "__metadata__"), st.tuples(SHAPES, DTYPES), max_size=5)
GOOD = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}}  # fmt: skip


def drawn(specs):
    draw = np.random.default_rng(0)
    return {n: draw.integers(0, 2, shape).astype(dtype) for n, (shape, dtype) in specs.items()}


def infos(tensors):
    return {name: Info(t.shape, t.dtype) for name, t in tensors.items()}


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        np.testing.assert_array_equal(found[name], tensor)


def everything(source):
    return {name: source.read(name) for name in source.infos}


@settings(max_examples=60, deadline=None)
@given(TENSORS)
def test_either_library_reads_what_the_other_wrote(tmp_path_factory, specs):
    folder, tensors = tmp_path_factory.mktemp("st"), drawn(specs)
    write(folder, infos(tensors), tensors.items())
    same(foreign.load_file(folder / FILE), tensors)
    same(everything(Directory(folder)), tensors)
    foreign.save_file(tensors, folder / FILE, metadata={"format": "pt"})
    same(everything(Directory(folder)), tensors)


@pytest.mark.parametrize("limit", [1, 64, 100, 1 << 30])
def test_a_model_is_split_and_found_again(tmp_path, limit):
    tensors = {f"t{i}": np.arange(16, dtype=np.float32) + i for i in range(5)}
    write(tmp_path, infos(tensors), reversed(tensors.items()), max_shard_bytes=limit)
    files = sorted(f.name for f in tmp_path.glob("*.safetensors"))
    assert len(files) == {1: 5, 64: 5, 100: 5, 1 << 30: 1}[limit]
    assert (tmp_path / INDEX).exists() == (len(files) > 1)
    same(everything(Directory(tmp_path)), tensors)
    same({k: v for f in files for k, v in foreign.load_file(tmp_path / f).items()}, tensors)


def test_only_what_was_announced_is_written(tmp_path):
    a = np.zeros(3, np.float32)
    for tensors in ([("a", a), ("a", a)], [("b", a)], [("a", a[:2])], []):
        with pytest.raises(ValueError, match=r"announced|did not come"):
            write(tmp_path, infos({"a": a}), tensors)


def raw(header, data=bytes(32), length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def changed(name, **fields):
    return raw({**GOOD, name: GOOD[name] | fields})


LIES = {
    "nothing": b"",
    "seven bytes": b"\0" * 7,
    "a header of 2^63 bytes": raw(GOOD, length=1 << 63),
    "a header beyond the file": raw(GOOD, length=10_000),
    "a header of 101 MB": raw(GOOD, length=101_000_000),
    "no JSON": raw(b"{]" + b" " * 6),
    "no object": raw(b"[1,2]  "),
    "white space first": raw(b" " + json.dumps(GOOD).encode()),
    "not UTF-8": raw(b'{"\xff": 1}'),
    "depth": raw(b"[" * 50_000),
    "a key twice": raw(b'{"a": {"dtype":"F32","shape":[8],"data_offsets":[0,32]},'
                       b'"a": {"dtype":"F32","shape":[8],"data_offsets":[0,32]}}'),
    "metadata that are no texts": raw({"__metadata__": {"a": 1}, **GOOD}),
    "an entry that is no object": raw({"a": 3}),
    "a field too many": raw({"a": GOOD["a"] | {"more": 1}, "b": GOOD["b"]}),
    "a field missing": raw({"a": {"dtype": "F32", "shape": [8]}}),
    "an unknown dtype": changed("a", dtype="Q4"),
    "a dtype that is no text": changed("a", dtype=["F32"]),
    "dimensions that overflow": changed("a", shape=[1 << 62, 1 << 62]),
    "a negative dimension": changed("a", shape=[-2, -3]),
    "a fraction": changed("a", shape=[2.0, 3]),
    "True": changed("a", shape=[True, 6]),
    "a span of another size": changed("a", shape=[2, 2]),
    "an end before the beginning": changed("a", data_offsets=[24, 0]),
    "three offsets": changed("a", data_offsets=[0, 24, 24]),
    "an overlap": changed("b", data_offsets=[20, 28]),
    "a gap": raw(GOOD | {"b": GOOD["b"] | {"data_offsets": [28, 36]}}, bytes(36)),
    "data too short": raw(GOOD, bytes(31)),
    "data too long": raw(GOOD, bytes(33)),
    "offsets beyond the file": changed("b", data_offsets=[1 << 40, (1 << 40) + 8]),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_file_is_refused_before_anything_is_allocated(tmp_path, monkeypatch, lie):
    (tmp_path / FILE).write_bytes(LIES[lie])
    monkeypatch.setattr(np, "fromfile", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(UserError, match=r"get it anew|is not read here"):
        File(tmp_path / FILE)


def test_what_the_lies_were_made_of_is_read(tmp_path):
    (tmp_path / FILE).write_bytes(raw(GOOD))
    assert File(tmp_path / FILE).read("a").shape == (2, 3)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_header_gives_an_error_or_arrays_of_the_size_that_it_says(tmp_path_factory, data):
    content = bytearray(raw(GOOD))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / FILE
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        file = File(path)
    except UserError:
        return
    assert sum(t.nbytes for t in everything(file).values()) == path.stat().st_size - file._start


@pytest.fixture
def split(tmp_path):
    """A directory of two files and their index."""
    folder = tmp_path / "model"
    folder.mkdir()
    tensors = {f"t{i}": np.zeros(4, np.float32) for i in range(2)}
    write(folder, infos(tensors), tensors.items(), max_shard_bytes=16)
    return folder


def index(folder, weights):
    (folder / INDEX).write_text(json.dumps({"weight_map": weights}))


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/passwd", "sub/x.safetensors", "", ".", 3, None, "no.safetensors"]
)
def test_names_in_an_index_are_never_used_as_paths(split, name):
    (split.parent / "x.safetensors").write_bytes((split / FIRST).read_bytes())
    index(split, {"t0": FIRST, "t1": name})
    with pytest.raises(UserError, match=r"index\.json names"):
        Directory(split)


def test_a_link_out_of_the_directory_is_refused_but_not_one_of_a_cache(split, tmp_path):
    outside = tmp_path / "elsewhere.safetensors"
    os.rename(split / SECOND, outside)
    (split / SECOND).symlink_to(outside)
    with pytest.raises(UserError, match="link out"):
        Directory(split)
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "blobs").mkdir()
    os.rename(outside, tmp_path / "blobs/hash")
    (split / SECOND).unlink()
    (split / SECOND).symlink_to("../../blobs/hash")
    os.rename(split, tmp_path / "snapshots/main")
    assert set(Directory(tmp_path / "snapshots/main").infos) == {"t0", "t1"}


@pytest.mark.parametrize("weights", [{"t0": FIRST, "t1": FIRST}, {"t0": FIRST, "t1": SECOND, "t2": SECOND}, {}])
def test_an_index_and_its_files_must_agree(split, weights):
    index(split, weights)
    with pytest.raises(UserError, match=r"get them anew"):
        Directory(split)


def test_every_dtype_of_the_table_has_a_name():
    assert len(safetensors.NAMES) == len(safetensors.DTYPES)
