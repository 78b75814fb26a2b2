"""Packing: every target once, in its own document, with the context that belongs to it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_jax.core.table import UserError
from llm_jax.data.documents import Document
from llm_jax.data.packing import concatenate, first_fit, first_fit_rows
from llm_jax.text import shards, tokenizers

TEXTS = ["a", "hello world", "x" * 40, "some words here", "é€😀", "y" * 16, "z" * 17, "end"]


@pytest.fixture
def shard(tmp_path):
    documents = [Document(text, str(i)) for i, text in enumerate(TEXTS)]
    return shards.build(documents, tokenizers.build("bytes"), "f", tmp_path)


def everything(rows):
    n = np.arange(rows.count)
    return rows.gather(n, np.zeros_like(n))


@pytest.mark.parametrize("seq_len", [1, 5, 16, 500])
def test_evaluation_windows_have_every_target_once_in_order(shard, seq_len):
    batch = everything(concatenate(shard, seq_len, seed=0, evaluation=True, pad_id=9))
    real = batch["weights"] > 0
    assert np.array_equal(batch["targets"][real], shard.tokens[1:])
    assert np.array_equal(batch["tokens"][real], shard.tokens[:-1])
    assert (batch["targets"][~real] == 9).all()


def test_training_windows_are_cut_elsewhere_in_each_epoch(shard):
    rows = concatenate(shard, 16, seed=3, evaluation=False)
    starts = set()
    for epoch in range(20):
        batch = rows.gather(np.arange(rows.count), np.full(rows.count, epoch))
        assert set(batch) == {"tokens", "targets"}
        flat = batch["targets"].ravel()
        starts.add(next(i for i in range(16) if np.array_equal(shard.tokens[1 + i : 1 + i + len(flat)], flat)))
        assert np.array_equal(batch["tokens"][:, 1:], batch["targets"][:, :-1])
    assert len(starts) > 5


def test_text_shorter_than_a_row_is_refused(shard):
    rows = concatenate(shard, len(shard.tokens) - 1, seed=0, evaluation=False)
    assert rows.count == 1
    with pytest.raises(UserError, match="seq_len"):
        concatenate(shard, len(shard.tokens), seed=0, evaluation=False)


@pytest.mark.parametrize("seq_len", [1, 7, 16, 64])
def test_first_fit_has_every_target_once_in_its_own_document(shard, seq_len, tmp_path):
    batch = everything(first_fit(shard, seq_len, seed=0, evaluation=False, cache_dir=tmp_path))
    seen = []
    for row in range(len(batch["tokens"])):
        for segment in range(1, batch["segments"][row].max() + 1):
            at = batch["segments"][row] == segment
            tokens, targets = batch["tokens"][row][at], batch["targets"][row][at]
            assert np.array_equal(tokens[1:], targets[:-1])
            assert np.array_equal(batch["positions"][row][at], np.arange(at.sum()))
            assert (targets[:-1] != 256).all(), "an end of document is the last target of its segment"
            seen.append(bytes(targets[targets < 256].tolist()))
    assert sorted(b"".join(seen)) == sorted("".join(TEXTS).encode())
    if seq_len == 64:
        assert sorted(seen) == sorted(text.encode() for text in TEXTS)
    assert np.array_equal(batch["weights"], batch["segments"] > 0)
    padding = batch["segments"] == 0
    assert not batch["tokens"][padding].any() and not batch["targets"][padding].any()


def test_without_a_start_token_no_document_sees_another(tmp_path):
    alphabet = tokenizers.build("characters", texts=lambda: TEXTS)
    import dataclasses

    bare = dataclasses.replace(alphabet, eos_id=None)
    shard = shards.build([Document(t, t) for t in TEXTS], bare, "bare", tmp_path)
    batch = everything(first_fit(shard, 64, seed=0, evaluation=False, cache_dir=tmp_path))
    seen = []
    for row in range(len(batch["tokens"])):
        for segment in range(1, batch["segments"][row].max() + 1):
            at = batch["segments"][row] == segment
            seen.append(bare.decode([batch["tokens"][row][at][0], *batch["targets"][row][at]]))
    assert sorted(seen) == sorted(text for text in TEXTS if len(text) > 1)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=60))
def test_first_fit_is_first_fit(lengths):
    free = []
    expected = []
    for need in lengths:
        row = next((i for i, room in enumerate(free) if room >= need), len(free))
        if row == len(free):
            free.append(20)
        free[row] -= need
        expected.append(row)
    assert first_fit_rows(np.array(lengths), 20).tolist() == expected


def test_a_packing_is_computed_once_and_again_when_damaged(shard, tmp_path, monkeypatch):
    rows = everything(first_fit(shard, 16, seed=0, evaluation=False, cache_dir=tmp_path))
    again = everything(first_fit(shard, 16, seed=0, evaluation=False, cache_dir=tmp_path))
    next(tmp_path.glob("packings/*/start.npy")).write_bytes(b"\x93NUMPY")
    repaired = everything(first_fit(shard, 16, seed=0, evaluation=False, cache_dir=tmp_path))
    for name in rows:
        assert np.array_equal(rows[name], again[name]) and np.array_equal(rows[name], repaired[name])
    assert len(list(tmp_path.glob("packings/*"))) == 1
