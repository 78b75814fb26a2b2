"""Laws of the data line, for every packing, one corpus and a mixture: one order, whoever reads it and whenever."""

import threading
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_jax.core.table import UserError
from llm_jax.data.build import build
from llm_jax.data.loader import Loader, ahead
from llm_jax.data.mixture import Texts
from llm_jax.data.order import uniform
from llm_jax.data.packing import PACKINGS, Rows
from llm_jax.data.sources import open_source
from llm_jax.text import tokenizers

TOKENIZER = tokenizers.build("bytes")


def write(path, start, stop):
    path.write_text("<|end|>".join(f"text {i} é {'ab ' * (i % 50)}" for i in range(start, stop)))
    return {"source": "text", "options": {"files": str(path), "separator": "<|end|>", "held_out": 0.1}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


KINDS = [(p, m) for p in PACKINGS for m in ("single", "mixture") if (p, m) != ("contiguous", "mixture")]  # refused


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def make(request, folder):
    packing, kind = request.param
    one, two = write(folder / "one.txt", 0, 300), write(folder / "two.txt", 300, 400)
    what = one if kind == "single" else {"mixture": [one | {"weight": 0.7}, two | {"weight": 0.3}]}
    plain = {"tokenizer": TOKENIZER, "seq_len": 32, "batch_size": 8, "packing": packing, "cache_dir": folder / "cache"}
    return lambda **more: build(**(plain | what | more))


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def test_batches_are_a_function_of_seed_and_step(make):
    first, second, other = make(seed=1).train, make(seed=1).train, make(seed=2).train
    for step in (0, 1, 10_000, 3, 10**9):
        assert same(first.batch(step), second.batch(step))
        if "positions" not in first.batch(step) or "segments" in first.batch(step):  # of rows in a drawn order
            assert not np.array_equal(first.batch(step)["tokens"], other.batch(step)["tokens"])


def test_a_resumed_run_sees_what_an_uninterrupted_one_would(make):
    middle = make().train.examples_per_epoch // 8 // 2
    whole = make().train.prefetch(0)
    batches = [next(whole) for _ in range(3 * middle)]
    whole.close()
    resumed = make().train.prefetch(middle)
    assert all(same(next(resumed), batch) for batch in batches[middle:])
    resumed.close()


@pytest.mark.parametrize("hosts", [1, 2, 4, 8])
def test_any_number_of_hosts_share_one_global_batch(make, hosts):
    train, validation = make().train, make().validation
    for step in (0, 77, 511, 512):
        parts = [train.local(step, host, hosts) for host in range(hosts)]
        assert same({k: np.concatenate([part[k] for part in parts]) for k in parts[0]}, train.batch(step))
    passes = zip(validation.once(8), *(validation.once(8, host, hosts) for host in range(hosts)), strict=True)
    for whole, *parts in passes:
        assert same({k: np.concatenate([part[k] for part in parts]) for k in whole}, whole)


def test_a_batch_that_does_not_divide_is_refused(make):
    with pytest.raises(UserError, match="batch_size=8 does not divide by 3"):
        make().train.local(0, 0, 3)


def test_all_batches_have_one_layout(make):
    data = make()
    for loader in ([data.train.batch(step) for step in range(60)], list(data.validation.once(8))):
        assert len({tuple((k, v.shape, v.dtype.str) for k, v in sorted(batch.items())) for batch in loader}) == 1
        assert all(v.dtype in (np.int32, np.float32) and v.flags.c_contiguous for v in loader[0].values())


def test_evaluation_sees_every_byte_exactly_once(make, folder):
    data = make()
    members = [write(folder / "one.txt", 0, 300), write(folder / "two.txt", 300, 400)]
    members = members[: len(data.validation.components)]
    texts = [d.text for m in members for d in Texts(open_source(m["source"], m["options"], "validation"), {}, 0)]
    batches = list(data.validation.once(8))
    assert sum(int(batch["bytes"].sum()) for batch in batches) == sum(len(text.encode()) for text in texts)
    weight = sum(batch["weights"].sum() for batch in batches)
    assert weight == sum(len(text.encode()) + 1 for text in texts), "each byte and each end of document"
    targets = np.concatenate([b["targets"][b["weights"] > 0] for b in batches])
    expected = np.frombuffer("".join(texts).encode(), np.uint8)
    assert np.array_equal(np.bincount(targets, minlength=257)[:256], np.bincount(expected, minlength=256))
    assert len(list(data.validation.once(8, limit=2))) == 2


def test_a_mixture_is_marked_and_keeps_its_proportions(make):
    train = make().train
    if len(train.components) == 1:
        assert "domain" not in train.batch(0)
        return
    domains = np.concatenate([train.batch(step)["domain"] for step in range(100)])
    assert (domains == 1).sum() == 240
    assert np.abs(np.cumsum(domains == 1) - 0.3 * np.arange(1, 801)).max() <= 0.5 + 1e-9


def numbered(count):
    return Rows(count, lambda rows, epochs: {"tokens": np.stack([rows, epochs], 1).astype(np.int32)})


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 700), st.integers(1, 64), st.integers(0, 2**40), st.integers(0, 50))
def test_each_epoch_has_every_row_exactly_once(rows, batch_size, seed, start):
    loader = Loader([numbered(rows)], [1.0], batch_size, seed)
    first, last = start * rows // batch_size, (start + 2) * rows // batch_size + 1
    seen = np.concatenate([loader.batch(step)["tokens"] for step in range(first, last)])
    for epoch in (start, start + 1):
        at = seen[:, 1] == epoch
        if epoch > start or first * batch_size == start * rows:
            assert sorted(seen[at, 0]) == list(range(rows))


def test_prefetched_batches_are_the_same_with_and_without_a_thread(make):
    train = make().train
    direct, threaded = train.prefetch(5, depth=0), train.prefetch(5, depth=3)
    for step in range(5, 25):
        batch = next(threaded)
        assert same(batch, next(direct)) and same(batch, train.batch(step))
    threaded.close()
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())


def test_an_error_of_the_thread_is_raised_in_the_consumer():
    def fail():
        yield {"tokens": np.zeros(1)}
        raise OSError("the disk is gone")

    items = ahead(fail(), 2)
    next(items)
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)
    assert list(ahead(iter([]), 1)) == []


def hidden(words, seq_len, seed):
    """Hide a third of the tokens of each row, by its number, behind an id that the tokenizer does not have."""

    def transform(fields, numbers):
        weights = fields.get("weights", np.ones(fields["tokens"].shape, np.float32))
        chosen = (uniform(seed, 7, numbers, seq_len) < 1 / 3) & (weights > 0)
        targets = np.where(chosen, fields["tokens"], words.vocab_size + 3)
        tokens = np.where(chosen, words.vocab_size, fields["tokens"]).astype(np.int32)
        return fields | {"tokens": tokens, "targets": targets, "weights": chosen.astype(np.float32)}

    return transform


def test_what_an_objective_hides_is_decided_by_seed_and_example(make):
    of = partial(hidden, TOKENIZER, 32)
    first, other = (make(seed=seed, transform=of) for seed in (1, 2))
    loader, rows = first.train, first.train.examples_per_epoch
    assert same(loader.batch(5), make(seed=1, transform=of).train.batch(5))
    halves = [loader.local(5, process, 2) for process in range(2)]
    assert same(loader.batch(5), {k: np.concatenate([half[k] for half in halves]) for k in halves[0]})
    masks = [loader.batch(step)["weights"] for step in range(rows // 8, rows // 8 + 3)] + [loader.batch(5)["weights"]]
    assert len({mask.tobytes() for mask in masks}) == 4
    assert not np.array_equal(loader.batch(5)["weights"], other.train.batch(5)["weights"])
    for batch, again in zip(first.validation.once(8), first.validation.once(8), strict=True):
        assert same(batch, again)
        assert not batch["bytes"][batch["weights"] == 0].any() and batch["bytes"][batch["weights"] > 0].any()
