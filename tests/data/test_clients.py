"""Clients of federated learning: whose documents are whose, and who takes part in a round."""

import numpy as np
import pytest

from llm_jax.core.table import UserError
from llm_jax.data.build import build
from llm_jax.data.documents import Document
from llm_jax.data.packing import PACKINGS
from llm_jax.data.turns.clients import Rounds, part
from llm_jax.text import shards, tokenizers

BYTES = tokenizers.build("bytes")
NAMES = [f"{year}-{who}" for year, who in zip(range(1790, 1840), "abcde" * 10, strict=True)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A text each for fifty speeches of five speakers, who are told by their letter."""
    folder = tmp_path_factory.mktemp("clients")
    for i, name in enumerate(NAMES):
        (folder / f"{name}.txt").write_text(f"{i:02} " + name[-1] * (9 + 3 * i))
    return folder


def loader(corpus, rounds, packing="concatenate", batch_size=8):
    where = {"source": "text", "options": {"files": str(corpus / "*.txt"), "separator": None, "held_out": 0.0}}
    return build(
        tokenizer=BYTES, seq_len=16, batch_size=batch_size, packing=packing, rounds=rounds, cache_dir=corpus / "cache",
        **where,
    ).train  # fmt: skip


def letters(batch):
    """The set of speakers' letters in each row."""
    return [
        {chr(t) for t, w in zip(row, weight, strict=True) if w and chr(t) in "abcde"}
        for row, weight in zip(batch["targets"].tolist(), batch["weights"].tolist(), strict=True)
    ]


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_share_of_the_rows_is_of_one_client_for_a_round(corpus, packing):
    train = loader(corpus, Rounds(sample=4, steps=3, pattern="[a-e]"), packing)
    assert len(train.components) == 5
    for round_ in range(4):
        rows = [letters(train.batch(step)) for step in range(3 * round_, 3 * round_ + 3)]
        of_share = [set().union(*(row[2 * i] | row[2 * i + 1] for row in rows)) for i in range(4)]
        assert all(len(found) == 1 for found in of_share)
        assert len(set().union(*of_share)) == 4, "without replacement"


def test_who_takes_part_is_a_function_of_seed_and_round_and_changes(corpus):
    rounds = Rounds(sample=2, steps=2, count=9)
    sizes = np.full(9, 50)

    def who(seed, step):
        return tuple(rounds.order(step * 8 + np.arange(8), 8, sizes, seed)[0][::4].tolist())

    seen = [who(0, 2 * r) for r in range(200)]
    assert seen == [who(0, 2 * r) for r in range(200)] == [who(0, 2 * r + 1) for r in range(200)]
    assert seen != [who(1, 2 * r) for r in range(200)]
    assert all(a != b for a, b in seen)
    counts = np.bincount(np.array(seen).ravel(), minlength=9)
    assert counts.min() > 25 and counts.max() < 65  # 44 expected


def test_a_round_goes_once_through_a_clients_rows_and_what_lacks_has_no_weight(corpus):
    rounds = Rounds(sample=2, steps=3, count=3)
    sizes = np.array([5, 5, 100])
    for round_ in range(20):
        n = round_ * 24 + np.arange(24)
        client, row, _, counts = rounds.order(n, 8, sizes, 0)
        for c in np.unique(client):
            found = row[(client == c) & counts]
            assert len(set(found.tolist())) == len(found) == min(12, sizes[c])
    lacking = [loader(corpus, Rounds(2, 50, pattern="[a-e]")).batch(step)["weights"].sum() for step in (0, 49)]
    assert lacking[0] > 0 and lacking[1] == 0


@pytest.mark.parametrize("tokenizer", ["eos between", "bos and eos"])
def test_a_part_of_a_shard_holds_its_documents_as_a_shard_of_them_alone_would(tokenizer, tmp_path):
    words = BYTES if tokenizer == "eos between" else Framed()
    texts = [Document(f"text number {i} " * (i + 1), str(i)) for i in range(7)]
    whole = shards.build(texts, words, "whole", tmp_path)
    for chosen in ([1, 4, 5], [0], [6, 2]):
        alone = shards.build([texts[i] for i in chosen], words, str(chosen), tmp_path)
        found = part(whole, np.array(chosen))
        np.testing.assert_array_equal(found.tokens, alone.tokens)
        np.testing.assert_array_equal(found.documents, alone.documents)
        assert found.starts == alone.starts and found.fingerprint != whole.fingerprint


class Framed:
    """The bytes, with a start token beside the end."""

    vocab_size, eos_id, bos_id, fingerprint = 258, 256, 257, "framed"
    encode_batch = BYTES.encode_batch


def test_clients_by_hash_are_as_many_as_asked_and_keep_all_documents(corpus):
    train = loader(corpus, Rounds(sample=3, steps=1, count=4))
    assert len(train.components) == 4
    targets = sum(c.gather(np.arange(c.count), np.zeros(c.count, int))["weights"].sum() for c in train.components)
    assert targets == sum(len(path.read_bytes()) + 1 for path in corpus.glob("*.txt"))


def test_hosts_share_a_round(corpus):
    train = loader(corpus, Rounds(sample=4, steps=2, pattern="[a-e]"))
    halves = [train.local(5, host, 2) for host in range(2)]
    for name, values in train.batch(5).items():
        np.testing.assert_array_equal(np.concatenate([half[name] for half in halves]), values)


@pytest.mark.parametrize(
    ("rounds", "message"),
    [
        (Rounds(6, 1, pattern="[a-e]"), "local.workers=6 clients of a round are more than the 5 of the data; try 5"),
        (Rounds(2, 1, pattern="z+"), "data.client_pattern='z\\+' matches nothing in the document's name '1790-a"),
    ],
)
def test_clients_that_cannot_be_found_are_refused(corpus, rounds, message):
    with pytest.raises(UserError, match=message):
        loader(corpus, rounds)
