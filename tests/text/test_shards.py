"""Token shards: whole or not at all, never wrong without a word."""

import dataclasses
import errno
import logging
import multiprocessing
import os
import time

import numpy as np
import pytest

from llm_jax.core.table import UserError
from llm_jax.data.documents import Document
from llm_jax.text import cache, shards, tokenizers

DOCUMENTS = [Document(text, str(i), domain=i % 2) for i, text in enumerate(["hello", "", "wörld €", "x" * 3000])]


@pytest.fixture
def tokenizer():
    return tokenizers.build("bytes")


def test_a_shard_holds_the_documents_with_an_end_after_each(tokenizer, tmp_path):
    shard = shards.build(DOCUMENTS, tokenizer, "f", tmp_path)
    assert shard.tokens.dtype == np.uint16 and shard.tokens[0] == tokenizer.eos_id == shard.tokens[-1]
    for row, document in zip(shard.documents, DOCUMENTS, strict=True):
        span = shard.tokens[row["offset"] : row["offset"] + row["tokens"]]
        assert tokenizer.decode(span) == document.text and span[-1] == tokenizer.eos_id
        assert shard.tokens[row["offset"] - 1] == tokenizer.eos_id
        assert row["bytes"] == len(document.text.encode()) and row["domain"] == document.domain
    assert shard.meta["bytes"] == tokenizer.token_bytes[shard.tokens].sum()


def test_a_large_vocabulary_gets_four_bytes_a_token(tmp_path):
    alphabet = "".join(chr(0x10000 + i) for i in range(1 << 16))
    tokenizer = tokenizers.build("characters", texts=lambda: [alphabet])
    shard = shards.build([Document(alphabet[-2:], "a")], tokenizer, "f", tmp_path)
    assert shard.tokens.dtype == np.uint32 and tokenizer.decode(shard.tokens) == alphabet[-2:]


def test_a_shard_in_the_cache_is_used_again(tokenizer, tmp_path):
    shards.build(DOCUMENTS, tokenizer, "f", tmp_path)
    shards.build(iter(()), tokenizer, "f", tmp_path)
    with pytest.raises(UserError, match="every document is empty"):
        shards.build(iter(()), tokenizer, "another", tmp_path)
    assert len(list((tmp_path / "shards").iterdir())) == 1, "a failed build leaves nothing behind"


@pytest.mark.parametrize("name", ["tokens.bin", "documents.idx", "shard.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_a_damaged_shard_is_noticed_and_written_again(tokenizer, tmp_path, caplog, name, damage):
    good = shards.build(DOCUMENTS, tokenizer, "f", tmp_path).tokens.copy()
    path = next(tmp_path.glob(f"shards/*/{name}"))
    content = bytearray(path.read_bytes())
    if damage == "delete":
        path.unlink()
    else:
        content[len(content) // 2] ^= 0x10
        path.write_bytes(content[: -1 if damage == "cut" else None])
    if name == "shard.json" and damage == "cut":
        path.write_bytes(content[:-5])
    with caplog.at_level(logging.WARNING):
        again = shards.build(DOCUMENTS, tokenizer, "f", tmp_path)
    assert np.array_equal(again.tokens, good)
    assert "damaged" in caplog.text


def test_a_flipped_bit_is_placed_by_its_mebibyte(tokenizer, tmp_path):
    big = Document("y" * (shards.MIB * 3 // 2), "big")
    shards.build([big], tokenizer, "f", tmp_path)
    path = next(tmp_path.glob("shards/*/tokens.bin"))
    with open(path, "r+b") as file:
        file.seek(2 * shards.MIB + 4)
        file.write(b"\x00")
    shards.open_shard(path.parent, full=False)
    with pytest.raises(shards.DamagedError, match="MiB 2 "):
        shards.open_shard(path.parent, full=True)


def test_a_changed_word_in_the_description_is_noticed(tokenizer, tmp_path):
    shards.build(DOCUMENTS, tokenizer, "f", tmp_path)
    path = next(tmp_path.glob("shards/*/shard.json"))
    path.write_text(path.read_text().replace(tokenizer.fingerprint, tokenizer.fingerprint[::-1]))
    with pytest.raises(shards.DamagedError, match="has changed since"):
        shards.open_shard(path.parent)


def _build(folder, barrier):
    barrier.wait()
    shard = shards.build(DOCUMENTS * 50, tokenizers.build("bytes"), "f", folder)
    assert shard.meta["documents"] == 200


def test_processes_that_build_at_once_all_succeed(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    processes = [context.Process(target=_build, args=(str(tmp_path), barrier)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list((tmp_path / "shards").iterdir())) == 1


def test_what_a_dead_process_left_is_swept(tokenizer, tmp_path):
    where = tmp_path / "shards" / cache.key("shard", "f", tokenizer.fingerprint, version=shards.FORMAT)
    stale, fresh = (where.with_name(f"{where.name}.tmp-{name}") for name in ("old", "new"))
    stale.mkdir(parents=True)
    fresh.mkdir()
    os.utime(stale, (time.time() - 2 * cache.STALE_SECONDS,) * 2)
    shards.build(DOCUMENTS, tokenizer, "f", tmp_path)
    assert fresh.exists() and not stale.exists()


def test_a_folder_that_is_still_written_into_is_not_swept(tokenizer, tmp_path):
    where = tmp_path / "shards" / cache.key("shard", "f", tokenizer.fingerprint, version=shards.FORMAT)
    slow = where.with_name(f"{where.name}.tmp-slow")
    slow.mkdir(parents=True)
    (slow / "tokens.bin").touch()
    os.utime(slow, (time.time() - 2 * cache.STALE_SECONDS,) * 2)
    shards.build(DOCUMENTS, tokenizer, "f", tmp_path)
    assert slow.exists()


def test_texts_of_which_no_token_is_left_are_refused(tmp_path):
    nothing = dataclasses.replace(tokenizers.build("bytes"), eos_id=None, to_ids=lambda text: np.zeros(0, np.int32))
    with pytest.raises(UserError, match="makes no token of"):
        shards.build(DOCUMENTS, nothing, "f", tmp_path)
    assert not list((tmp_path / "shards").iterdir())


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(tokenizer, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/shards/.* cannot be written \(Not a dir.*LLM_JAX_CACHE"):
        shards.build(DOCUMENTS, tokenizer, "f", tmp_path / "file")

    def full(folder):
        (folder / "half").touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"a cannot be written \(No space left.*LLM_JAX_CACHE"):
        cache.publish(tmp_path / "a", full)
    assert not list(tmp_path.glob("a*"))


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("LLM_JAX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "llm_jax"
    monkeypatch.setenv("LLM_JAX_CACHE", str(tmp_path / "other"))
    assert cache.folder() == tmp_path / "other"
    assert cache.folder(tmp_path / "chosen") == tmp_path / "chosen"
