"""GGUF: what is written is read by the `gguf` package, what it quantizes is read here, and no file is believed."""

import struct
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_jax.core.table import UserError, lookup
from llm_jax.interop import configs, gguf, gguf_header, gguf_writer, load
from llm_jax.interop.names import NAMES
from llm_jax.interop.save import Export
from llm_jax.interop.source import open_source
from llm_jax.models import MODELS
from llm_jax.text import tokenizers

package = pytest.importorskip("gguf")
FIELDS = {
    "vocab_size": 300, "num_layers": 2, "embed_dim": 32, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8,
    "mlp_dim": 64, "norm_eps": 1e-5,
}  # fmt: skip
TEXTS = ["the people of the union, 1790: it's naïve"] * 5
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def case(*, family="llama", dtype="float32", tied=False, **more):
    """(export, leaves) of a small model."""
    model = lookup(MODELS, family, "model.name")(**FIELDS, tied=tied)
    shapes = {path: d.shape for path, d in model.declarations().items()}
    draw = np.random.default_rng(0)
    what = Export(family, asdict(model), shapes, 64, dtype, **more)
    return what, {p: draw.standard_normal(shapes[p], np.float32) for p in what.paths()}


@pytest.fixture(scope="module")
def words():
    return tokenizers.build("bpe", {"vocab_size": 280}, lambda: TEXTS)


@pytest.fixture(scope="module")
def written(tmp_path_factory, words):
    """The path of a file with everything in it, and its leaves."""
    folder = tmp_path_factory.mktemp("gguf")
    what, leaves = case(tokenizer=words, template=TEMPLATE)
    gguf_writer.gguf(folder, what, leaves.items())
    return folder / "model.gguf", leaves


def test_the_gguf_package_reads_what_is_written(written, words):
    reader = package.GGUFReader(written[0])
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert said["general.architecture"] == "llama" and said["llama.attention.head_count_kv"] == 2
    assert said["llama.context_length"] == 64 and said["tokenizer.chat_template"] == TEMPLATE
    assert said["tokenizer.ggml.pre"] == "llama-bpe" and len(said["tokenizer.ggml.tokens"]) == 300
    assert said["tokenizer.ggml.eos_token_id"] == words.eos_id
    tensors = {t.name: t for t in reader.tensors}
    np.testing.assert_array_equal(tensors["token_embd.weight"].data, written[1]["embed/tokens"])
    up = written[1]["blocks/mlp/up"][1]
    np.testing.assert_array_equal(tensors["blk.1.ffn_up.weight"].data, up.T)
    assert len(tensors) == 2 * 9 + 3


def test_a_file_comes_back_with_all_that_it_says(written, words):
    source = open_source(str(written[0]))
    assert source.template == TEMPLATE and not source.notes
    assert (source.config["rms_norm_eps"], source.config["tie_word_embeddings"]) == (1e-5, False)
    assert source.tokenizer.encode(TEXTS[0]).tolist() == words.encode(TEXTS[0]).tolist()
    shapes = {p: a.shape for p, a in written[1].items()}
    found = dict(load.leaves(source.tensors, lookup(NAMES, "llama", "names"), shapes))
    assert found.keys() == shapes.keys()
    for path, leaf in written[1].items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)


@pytest.mark.parametrize(("dtype", "error"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_matrices_are_halved_and_vectors_stay(tmp_path, dtype, error):
    what, leaves = case(dtype=dtype, tied=True)
    gguf_writer.gguf(tmp_path, what, leaves.items())
    kinds = {t.name: t.tensor_type.name for t in package.GGUFReader(tmp_path / "model.gguf").tensors}
    assert kinds["blk.0.attn_norm.weight"] == "F32" and kinds["blk.0.attn_q.weight"] in ("F16", "BF16")
    source = open_source(str(tmp_path / "model.gguf"))
    assert source.config["tie_word_embeddings"] and source.tokenizer is None
    found = dict(load.leaves(source.tensors, what.names(), what.shapes))
    for path, leaf in leaves.items():
        np.testing.assert_allclose(found[path], leaf, rtol=error, atol=error, err_msg=path)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_other_families_come_back_too(tmp_path, family):
    what, leaves = case(family=family)
    gguf_writer.gguf(tmp_path, what, leaves.items())
    source = open_source(str(tmp_path / "model.gguf"))
    read = configs.read(source.config)
    assert (read.family, configs.flat(read.fields)) == (family, FIELDS | {"tied": False, "rope.theta": 10_000.0})
    found = dict(load.leaves(source.tensors, what.names(), what.shapes))
    assert found.keys() == leaves.keys()
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)


def test_what_the_format_cannot_say_is_refused(tmp_path):
    what, leaves = case(family="qwen3")
    stretched = replace(what, fields={**what.fields, "rope": {"theta": 1e4, "factor": 2.0}})
    with pytest.raises(UserError, match=r"cannot say model.rope.factor=2.0"):
        gguf_writer.gguf(tmp_path, stretched, leaves.items())


def test_heads_are_turned_so_that_pairs_side_by_side_rotate_alike():
    """llama.cpp turns dimensions (2i, 2i+1) of a head where Hugging Face turns (i, i + K/2)."""
    heads, size = 3, 8
    draw = np.random.default_rng(0)
    kernel, x = draw.normal(size=(heads * size, 5)), draw.normal(size=5)
    angle = 0.7 * np.arange(size // 2)
    theirs = gguf.to_file(kernel, "blk.0.attn_q.weight", gguf.ARCHITECTURES["llama"], (heads, 1))

    def turned(pairs):  # [H, K/2, 2]
        a, b = pairs[..., 0], pairs[..., 1]
        return np.stack([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)

    halves = turned((kernel @ x).reshape(heads, 2, size // 2).swapaxes(1, 2))
    np.testing.assert_allclose(turned((theirs @ x).reshape(heads, size // 2, 2)), halves)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_1", "F16"])
def test_quantized_tensors_are_read_as_the_gguf_package_reads_them(tmp_path, written, kind):
    kind = package.GGMLQuantizationType[kind]
    out, wanted = package.GGUFWriter(tmp_path / "q.gguf", "llama"), {}
    reader = package.GGUFReader(written[0])
    for name, field in reader.fields.items():
        if name.startswith("llama."):
            out.add_key_value(name, field.contents(), field.types[0])
    for t in reader.tensors:
        data = package.quantize(t.data, kind) if t.data.ndim == 2 else t.data
        out.add_tensor(t.name, data, raw_dtype=kind if t.data.ndim == 2 else None)
        wanted[t.name] = package.dequantize(data, kind) if t.data.ndim == 2 else t.data
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    tensors = open_source(str(tmp_path / "q.gguf")).tensors
    np.testing.assert_array_equal(tensors.read("model.layers.1.mlp.down_proj.weight"), wanted["blk.1.ffn_down.weight"])
    np.testing.assert_array_equal(tensors.read("model.norm.weight"), wanted["output_norm.weight"])


def pair(key, value):
    word = key.encode()
    return struct.pack("<Q", len(word)) + word + value


def text(value):
    return struct.pack("<IQ", 8, len(value)) + value.encode()


def tensor(name="a", shape=(4, 2), kind=0, offset=0):
    word = name.encode()
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return struct.pack("<Q", len(word)) + word + dims + struct.pack("<IQ", kind, offset)


def raw(*, pairs=(), tensors=(), counts=None, data=bytes(64), magic=b"GGUF", version=3):
    n = counts or (len(tensors), len(pairs))
    head = magic + struct.pack("<IQQ", version, *n) + b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


ARCHITECTURE = pair("general.architecture", text("llama"))
LIES = {
    "nothing": b"",
    "another magic": raw(magic=b"GGML"),
    "another version": raw(version=9),
    "2^60 pairs": raw(counts=(0, 1 << 60)),
    "2^60 tensors": raw(counts=(1 << 60, 0)),
    "more pairs than there are": raw(pairs=[ARCHITECTURE], counts=(0, 2)),
    "a key of 2^60 bytes": raw(pairs=[struct.pack("<Q", 1 << 60)], counts=(0, 1)),
    "a list of 2^60 numbers": raw(pairs=[pair("a", struct.pack("<IIQ", 9, 0, 1 << 60))]),
    "a list of 2^60 texts": raw(pairs=[pair("a", struct.pack("<IIQ", 9, 8, 1 << 60))]),
    "lists in lists": raw(pairs=[pair("a", struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 3000)]),
    "a value of no type": raw(pairs=[pair("a", struct.pack("<I", 99))]),
    "a key twice": raw(pairs=[ARCHITECTURE, ARCHITECTURE]),
    "a key that is not UTF-8": raw(pairs=[struct.pack("<Q", 1) + b"\xff" + text("x")]),
    "a tensor twice": raw(tensors=[tensor(), tensor(offset=32)]),
    "a tensor of no type": raw(tensors=[tensor(kind=77)]),
    "no dimensions": raw(tensors=[tensor(shape=())]),
    "many dimensions": raw(tensors=[tensor(shape=(1,) * 9)]),
    "dimensions that overflow": raw(tensors=[tensor(shape=(1 << 63, 1 << 63))]),
    "a broken block": raw(tensors=[tensor(kind=8, shape=(31, 2))]),
    "an overlap": raw(tensors=[tensor(shape=(16, 2)), tensor("b", offset=32)], data=bytes(256)),
    "an offset that is not aligned": raw(tensors=[tensor(offset=4)]),
    "an offset beyond the file": raw(tensors=[tensor(offset=1 << 40)]),
    "data too short": raw(tensors=[tensor(shape=(64, 2))]),
    "an alignment of 0": raw(pairs=[pair("general.alignment", struct.pack("<II", 4, 0))]),
    "an alignment of 24": raw(pairs=[pair("general.alignment", struct.pack("<II", 4, 24))]),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_file_is_refused_before_anything_is_read(tmp_path, monkeypatch, lie):
    path = tmp_path / "lie.gguf"
    path.write_bytes(LIES[lie])
    monkeypatch.setattr(np, "fromfile", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(UserError, match="get it anew"):
        gguf_header.Header(path)


def test_what_the_lies_were_made_of_is_read(tmp_path):
    (tmp_path / "a.gguf").write_bytes(raw(pairs=[ARCHITECTURE], tensors=[tensor(), tensor("b", offset=32)]))
    header = gguf_header.Header(tmp_path / "a.gguf")
    assert header.entries["b"].shape == (2, 4) and header.metadata == {"general.architecture": "llama"}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_header_gives_an_error_and_nothing_else(tmp_path_factory, data):
    content = bytearray(raw(pairs=[ARCHITECTURE], tensors=[tensor(), tensor("b", offset=32)]))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / "a.gguf"
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        header = gguf_header.Header(path)
    except UserError:
        return
    assert all(0 <= e.begin <= e.end <= path.stat().st_size for e in header.entries.values())


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        ([pair("general.architecture", text("mystery"))], "'mystery' cannot be imported; llama"),
        ([ARCHITECTURE, pair("llama.block_count", struct.pack("<II", 4, 1))], "num_attention_heads is not said"),
        ([ARCHITECTURE, pair("llama.expert_count", struct.pack("<II", 4, 8))], "expert_count=8 is not understood"),
        ([ARCHITECTURE, pair("llama.attention.key_length", struct.pack("<II", 4, 8)),
          pair("llama.rope.dimension_count", struct.pack("<II", 4, 4))], "disagree"),
    ],
)  # fmt: skip
def test_metadata_that_are_not_understood_are_refused(tmp_path, pairs, told):
    (tmp_path / "a.gguf").write_bytes(raw(pairs=pairs))
    with pytest.raises(UserError, match=told):
        open_source(str(tmp_path / "a.gguf"))


def test_a_family_that_gguf_cannot_say_is_refused(tmp_path):
    what, leaves = case()
    strange = Export("gpt2", {**what.fields, "max_positions": 4, "dropout": 0.0}, what.shapes, 64)
    with pytest.raises(UserError, match=r"gpt2.*cannot be written as GGUF; llama"):
        gguf_writer.gguf(tmp_path, strange, leaves.items())


def test_without_the_package_the_error_says_what_to_install(written, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-interop.txt"):
        open_source(str(written[0]))
