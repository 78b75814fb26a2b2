"""From names to loaders: what is refused, and what is remembered."""

import numpy as np
import pytest

from llm_jax.core.table import UserError
from llm_jax.data.build import build
from llm_jax.data.mixture import training_texts
from llm_jax.text import tokenizers

TOKENIZER = tokenizers.build("bytes")


@pytest.fixture
def options(tmp_path):
    (tmp_path / "a.txt").write_text("<|end|>".join(f"text {i}\r\n" * (i % 7 + 1) for i in range(300)))
    return {"files": str(tmp_path / "a.txt"), "separator": "<|end|>", "held_out": 0.1}


def arguments(options, tmp_path, /, **more):
    plain = {"tokenizer": TOKENIZER, "seq_len": 8, "batch_size": 4, "source": "text", "options": options}
    return plain | {"cache_dir": tmp_path / "cache"} | more


def test_a_tokenizer_is_trained_on_the_training_split_as_it_will_be_encoded(options, tmp_path):
    texts, fingerprint = training_texts(source="text", options=options)
    assert "\r" not in "".join(texts()) and list(texts()) == list(texts())
    assert fingerprint == training_texts(source="text", options=options)[1]
    assert fingerprint != training_texts(source="text", options=options, normalization={"newlines": False})[1]
    tokenizer = tokenizers.build("bpe", {"vocab_size": 280}, texts, fingerprint, tmp_path / "cache")
    data = build(**arguments(options, tmp_path, tokenizer=tokenizer))
    assert data.train.batch(0)["tokens"].shape == (4, 8) and "text" in tokenizer.decode(
        data.train.batch(0)["tokens"][0]
    )


def test_the_fingerprint_of_the_data_follows_the_content(options, tmp_path):
    first = build(**arguments(options, tmp_path)).fingerprint
    assert first == build(**arguments(options, tmp_path, seed=1, packing="first_fit")).fingerprint
    assert first != build(**arguments(options, tmp_path, normalization={"newlines": False})).fingerprint


def test_bytes_are_in_validation_and_in_training_on_request(options, tmp_path):
    data = build(**arguments(options, tmp_path))
    assert "bytes" not in data.train.batch(0) and "bytes" in next(data.validation.once(4))
    batch = build(**arguments(options, tmp_path, train_bytes=True)).train.batch(0)
    assert np.array_equal(batch["bytes"], batch["targets"] < 256) and batch["bytes"].dtype == np.int32


def test_written_shards_are_a_source_and_give_the_same_batches(options, tmp_path):
    data = build(**arguments(options, tmp_path)).whole()
    found = sorted(
        (tmp_path / "cache/shards").glob("*/shard.json"), key=lambda p: -p.with_name("tokens.bin").stat().st_size
    )
    given = {"train": str(found[0]), "validation": str(found[1])}
    again = build(**arguments(given, tmp_path, source="shards"))
    for step in (0, 100):
        assert np.array_equal(again.train.batch(step)["tokens"], data.train.batch(step)["tokens"])
    both = build(**arguments({"train": [str(p) for p in found]}, tmp_path, source="shards"))
    assert both.validation is None
    assert both.train.examples_per_epoch > data.train.examples_per_epoch
    other = tokenizers.build("characters", texts=lambda: ["ab"])
    with pytest.raises(UserError, match="another tokenizer"):
        build(**arguments(given, tmp_path, source="shards", tokenizer=other)).whole()
    with pytest.raises(UserError, match="no text to train"):
        training_texts(source="shards", options=given)
    found[0].with_name("tokens.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"tokens\.bin has 0 bytes"):
        build(**arguments(given, tmp_path, source="shards")).whole()


def test_nothing_held_out_means_no_validation(options, tmp_path):
    assert build(**arguments(options | {"held_out": 0.0}, tmp_path)).validation is None


def test_what_is_held_out_is_opened_without_a_training_split(options, tmp_path):
    (tmp_path / "short.txt").write_text("few words")
    few = {"files": str(tmp_path / "short.txt"), "validation": str(tmp_path / "short.txt")}
    data = build(**arguments(few, tmp_path, seq_len=64))
    (batch,) = data.validation.once(4)
    assert batch["weights"].sum() == len("few words") + 1  # and the end
    with pytest.raises(UserError, match="shorten seq_len"):
        data.whole()


def test_a_surrogate_that_utf_8_cannot_write_is_refused_by_file_and_line(tmp_path):
    (tmp_path / "b.jsonl").write_text('{"text": "fine"}\n{"text": "\\ud800"}\n{"text": "more"}\n')
    chosen = {"files": str(tmp_path / "b.jsonl"), "held_out": 0.0}
    with pytest.raises(UserError, match=r"b\.jsonl:2: the text holds the surrogate"):
        build(**arguments(chosen, tmp_path, source="jsonl")).whole()
    replaced = {"surrogates": "replace"}
    data = build(**arguments(chosen, tmp_path, source="jsonl", normalization=replaced))
    assert data.train.batch(0)["tokens"].shape == (4, 8)


def test_a_nul_is_a_character_like_another_where_controls_are_kept(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\0b")
    for controls, text in ((True, b"ab"), (False, b"a\0b")):
        chosen = {"files": str(tmp_path / "a.txt"), "held_out": 0.0}
        given = {"source": "text", "tokenizer": tokenizers.build("bytes"), "seq_len": 2, "batch_size": 1}
        data = build(**arguments(chosen, tmp_path, **given, normalization={"controls": controls}))
        assert data.train.batch(0)["targets"].tolist() == [[*text[:2]]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_len": 0}, "data.seq_len=0 must be a positive integer"),
        ({"batch_size": True}, "data.batch_size=True"),
        ({"packing": "firstfit"}, "did you mean 'first_fit'"),
        ({"source": None}, "give either `source`"),
        ({"source": "txt"}, "did you mean 'text'"),
        ({"normalization": {"form": "NFX"}}, "NFX"),
        ({"normalization": {"from": "NFC"}}, "did you mean 'form'"),
        ({"mixture": [{"source": "text"}]}, "give either `source`"),
        ({"source": None, "options": None, "mixture": [{"sauce": "text"}]}, "did you mean 'source'"),
        ({"source": None, "options": None, "mixture": [{"weight": 1}]}, "source is required"),
        ({"source": None, "options": None, "mixture": [{"source": "sotu", "weight": -1}]}, "weight -1"),
        ({"seq_len": 10**6}, "shorten seq_len"),
    ],
)
def test_a_wrong_argument_is_named(options, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        build(**arguments(options, tmp_path, **changes)).whole()
