"""GGUF: what is written is read by the `gguf` package, what it quantizes is read here, and no file is believed."""

import struct
from dataclasses import replace

import numpy as np
import pytest
from gguf_cases import CASES, case
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_jax.core import tree
from llm_jax.core.table import UserError, lookup
from llm_jax.interop import configs, load
from llm_jax.interop.gguf import architectures, blocks, header, writer
from llm_jax.interop.names import NAMES, numbered
from llm_jax.interop.save import Export
from llm_jax.interop.source import open_source
from llm_jax.models import MODELS
from llm_jax.nn.rotary import Rope
from llm_jax.run.config import construct
from llm_jax.text import tokenizers

package = pytest.importorskip("gguf")
TEXTS = ["the people of the union, 1790: it's naïve"] * 5
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def source_of(folder):
    return open_source(str(folder / "model.gguf"))


@pytest.fixture(scope="module")
def words():
    return tokenizers.build("bpe", {"vocab_size": 280}, lambda: TEXTS)


@pytest.fixture(scope="module")
def written(tmp_path_factory, words):
    """The path of a file with everything in it, and its leaves."""
    folder = tmp_path_factory.mktemp("gguf")
    ends = {"eos_token_id": [words.eos_id, 7, 9]}
    _, what, leaves = case(tokenizer=words, template=TEMPLATE, generation=ends)
    writer.gguf(folder, what, leaves.items())
    return folder / "model.gguf", leaves


def test_the_gguf_package_reads_what_is_written(written, words):
    reader = package.GGUFReader(written[0])
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert said["general.architecture"] == "llama" and said["llama.attention.head_count_kv"] == 2
    assert said["llama.context_length"] == 64 and said["tokenizer.chat_template"] == TEMPLATE
    assert said["tokenizer.ggml.pre"] == "llama-bpe" and len(said["tokenizer.ggml.tokens"]) == 300
    ends = [said[f"tokenizer.ggml.{key}_token_id"] for key in ("eos", "eot", "eom")]
    assert ends == [words.eos_id, 7, 9]
    tensors = {t.name: t for t in reader.tensors}
    np.testing.assert_array_equal(tensors["token_embd.weight"].data, written[1]["embed/tokens"])
    up = written[1]["blocks/mlp/up"][1]
    np.testing.assert_array_equal(tensors["blk.1.ffn_up.weight"].data, up.T)
    assert len(tensors) == 2 * 9 + 3


def test_a_file_comes_back_with_all_that_it_says(written, words):
    source = open_source(str(written[0]))
    assert source.template == TEMPLATE and not source.notes
    assert (source.config["rms_norm_eps"], source.config["tie_word_embeddings"]) == (1e-3, False)
    assert source.generation["eos_token_id"] == [words.eos_id, 7, 9]
    assert source.tokenizer.encode(TEXTS[0]).tolist() == words.encode(TEXTS[0]).tolist()
    shapes = {p: a.shape for p, a in written[1].items()}
    found = dict(load.leaves(source.tensors, lookup(NAMES, "llama", "names"), shapes))
    assert found.keys() == shapes.keys()
    for path, leaf in written[1].items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)


@pytest.mark.parametrize(("dtype", "error"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_matrices_are_halved_and_vectors_stay(tmp_path, dtype, error):
    _, what, leaves = case("mixtral", dtype=dtype)
    writer.gguf(tmp_path, what, leaves.items())
    kinds = {t.name: t.tensor_type.name for t in package.GGUFReader(tmp_path / "model.gguf").tensors}
    assert kinds["blk.0.attn_norm.weight"] == "F32" and kinds["blk.0.attn_q.weight"] in ("F16", "BF16")
    assert kinds["blk.0.ffn_gate_inp.weight"] == "F32" and kinds["blk.0.ffn_up_exps.weight"] in ("F16", "BF16")
    found = dict(load.leaves(source_of(tmp_path).tensors, what.names(), what.shapes))
    for path, leaf in leaves.items():
        exact = "norm" in path or "router" in path
        near = {"rtol": 0, "atol": 0} if exact else {"rtol": error, "atol": error}
        np.testing.assert_allclose(found[path], leaf, **near, err_msg=path)


@pytest.mark.rotates(3)
@pytest.mark.parametrize("name", CASES)
def test_every_family_comes_back_and_computes_the_same(tmp_path, name):
    model, what, leaves = case(name)
    writer.gguf(tmp_path, what, leaves.items())
    source = source_of(tmp_path)
    read = configs.read(source.config)
    assert read.family == what.family.replace("mistral", "llama") and read.context == 64
    again = construct(lookup(MODELS, read.family, "model.name"), read.fields)
    shapes = {path: d.shape for path, d in again.declarations().items()}
    names = numbered(lookup(NAMES, read.family, "names"), again)
    found = dict(load.leaves(source.tensors, names, shapes))
    tokens = np.random.default_rng(1).integers(0, 300, (2, 20))
    logits = [m.apply(tree.unflatten(p), {"tokens": tokens}).logits for m, p in ((model, leaves), (again, found))]
    np.testing.assert_allclose(*logits, rtol=0, atol=1e-5 * float(np.abs(logits[0]).max()))


def read_by_the_package(folder):
    reader = package.GGUFReader(folder / "model.gguf")
    said = {key: field.contents() for key, field in reader.fields.items()}
    return said, {t.name: t.data for t in reader.tensors}


def test_norms_of_gemma_are_stored_plus_one_and_layers_keep_their_number(tmp_path):
    _, what, leaves = case("gemma3, stretched")
    writer.gguf(tmp_path, what, leaves.items())
    said, tensors = read_by_the_package(tmp_path)
    stored = tensors["blk.3.post_ffw_norm.weight"]
    np.testing.assert_array_equal(stored, leaves["global_blocks/after_mlp_norm/scale"][1] + 1)
    np.testing.assert_array_equal(tensors["output_norm.weight"], leaves["final_norm/scale"] + 1)
    keys = ("attention.sliding_window_pattern", "rope.freq_base", "rope.freq_base_swa", "rope.scaling.factor")
    assert [said[f"gemma3.{key}"] for key in keys] == [2, 300.0, 50.0, 4.0]


def test_experts_of_a_layer_lie_in_one_stack(tmp_path):
    _, what, leaves = case("mixtral")
    writer.gguf(tmp_path, what, leaves.items())
    said, tensors = read_by_the_package(tmp_path)
    assert (said["general.architecture"], said["llama.expert_count"], said["llama.expert_used_count"]) == (
        "llama",
        4,
        2,
    )
    down = leaves["blocks/mlp/experts/down"]
    np.testing.assert_array_equal(tensors["blk.1.ffn_down_exps.weight"], down[1].swapaxes(1, 2))


def test_a_stack_of_fewer_experts_than_are_said_is_refused(tmp_path):
    _, what, leaves = case("mixtral")
    writer.gguf(tmp_path, what, leaves.items())
    raw = (tmp_path / "model.gguf").read_bytes()
    word = b"llama.expert_count" + struct.pack("<I", 4)
    (tmp_path / "model.gguf").write_bytes(raw.replace(word + struct.pack("<I", 4), word + struct.pack("<I", 3)))
    source = source_of(tmp_path)
    read = configs.read(source.config)
    again = construct(lookup(MODELS, read.family, "model.name"), read.fields)
    shapes = {path: d.shape for path, d in again.declarations().items()}
    with pytest.raises(UserError, match=r"block_sparse_moe.experts.0.w1.weight is float32\[4, 24, 32\]; this model"):
        load.leaves(source.tensors, what.names(), shapes)


def test_wavelengths_stretched_as_in_no_model_of_llama_3_are_refused(tmp_path):
    _, what, leaves = case("llama, stretched")
    writer.gguf(tmp_path, what, leaves.items())
    raw = bytearray((tmp_path / "model.gguf").read_bytes())
    factors = np.float32([1, 1, 8]).tobytes()
    at = raw.index(np.float32([1, 1]).tobytes(), len(raw) - sum(a.nbytes for a in leaves.values()) - 64)
    raw[at : at + len(factors)] = factors
    (tmp_path / "model.gguf").write_bytes(bytes(raw))
    with pytest.raises(UserError, match=r"rope_freqs.weight is not how Llama 3 stretches"):
        source_of(tmp_path)


WRONG = {
    "model.window=6": ("mistral", {"window": 6}),
    "model.score_dim=20": ("gemma2", {"score_dim": 20}),
    "model.score_cap=None": ("gemma2", {"score_cap": None}),
    "model.logit_cap=None": ("gemma2", {"logit_cap": None}),
    "model.rope.original=16": ("llama, stretched", {"rope": {**vars(Rope(factor=8.0)), "original": 16}}),
    "model.renormalize=False": ("qwen3_moe", {"renormalize": False}),
    "model.sparse_step=2": ("qwen3_moe", {"sparse_step": 2}),
    r"model.dense_layers=.1": ("qwen3_moe", {"dense_layers": (1,)}),
    "model.rope.factor=8.0": ("qwen3", {"rope": {**vars(Rope(factor=8.0)), "original": 8192}}),
}


@pytest.mark.parametrize("told", WRONG)
def test_what_the_format_cannot_say_is_refused(tmp_path, told):
    name, fields = WRONG[told]
    _, what, leaves = case(name)
    with pytest.raises(UserError, match=rf"GGUF's architecture \S+ cannot say .*{told}.*; export with --format=hf"):
        writer.gguf(tmp_path, replace(what, fields={**what.fields, **fields}), leaves.items())


def test_heads_are_turned_so_that_pairs_side_by_side_rotate_alike():
    """llama.cpp turns dimensions (2i, 2i+1) of a head where Hugging Face turns (i, i + K/2)."""
    heads, size = 3, 8
    draw = np.random.default_rng(0)
    kernel, x = draw.normal(size=(heads * size, 5)), draw.normal(size=5)
    angle = 0.7 * np.arange(size // 2)
    form = architectures.form_of({"general.architecture": "llama"})
    theirs = architectures.to_file(kernel, "blk.0.attn_q.weight", form, (heads, 1))

    def turned(pairs):  # [H, K/2, 2]
        a, b = pairs[..., 0], pairs[..., 1]
        return np.stack([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)

    halves = turned((kernel @ x).reshape(heads, 2, size // 2).swapaxes(1, 2))
    np.testing.assert_allclose(turned((theirs @ x).reshape(heads, size // 2, 2)), halves)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_1", "F16"])
def test_quantized_tensors_are_read_as_the_gguf_package_reads_them(tmp_path, written, kind, monkeypatch):
    monkeypatch.setattr(blocks, "SLAB", 96)  # several slabs a tensor, the last one shorter
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
        header.Header(path)


def test_what_the_lies_were_made_of_is_read(tmp_path):
    (tmp_path / "a.gguf").write_bytes(raw(pairs=[ARCHITECTURE], tensors=[tensor(), tensor("b", offset=32)]))
    found = header.Header(tmp_path / "a.gguf")
    assert found.entries["b"].shape == (2, 4) and found.metadata == {"general.architecture": "llama"}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_header_gives_an_error_and_nothing_else(tmp_path_factory, data):
    content = bytearray(raw(pairs=[ARCHITECTURE], tensors=[tensor(), tensor("b", offset=32)]))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / "a.gguf"
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        found = header.Header(path)
    except UserError:
        return
    assert all(0 <= e.begin <= e.end <= path.stat().st_size for e in found.entries.values())


def number(key, value):
    return pair(f"llama.{key}", struct.pack("<II", 4, value))


HEADS = number("attention.head_count", 2)


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        ([pair("general.architecture", text("mystery"))], "'mystery' cannot be imported; gemma"),
        ([ARCHITECTURE, number("block_count", 1)], "num_attention_heads is not said"),
        ([ARCHITECTURE, number("expert_shared_count", 8)], "expert_shared_count=8 is not understood"),
        ([ARCHITECTURE, HEADS, number("block_count", 1 << 30)], "num_hidden_layers=1073741824 are not in the file"),
        ([ARCHITECTURE, HEADS, number("block_count", 0), number("expert_count", 1 << 30)], "experts=1073741824 are"),
        ([ARCHITECTURE, number("attention.key_length", 8), number("rope.dimension_count", 4)], "disagree"),
    ],
)  # fmt: skip
def test_metadata_that_are_not_understood_are_refused(tmp_path, pairs, told):
    (tmp_path / "a.gguf").write_bytes(raw(pairs=pairs))
    with pytest.raises(UserError, match=told):
        open_source(str(tmp_path / "a.gguf"))


def test_a_family_that_gguf_cannot_say_is_refused(tmp_path):
    _, what, leaves = case()
    strange = Export("gpt2", {**what.fields, "max_positions": 4, "dropout": 0.0}, what.shapes, 64)
    with pytest.raises(UserError, match=r"gpt2.*cannot be written as GGUF; gemma, gemma2, gemma3_text, llama"):
        writer.gguf(tmp_path, strange, leaves.items())


def test_without_the_package_the_error_says_what_to_install(written, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-interop.txt"):
        open_source(str(written[0]))
