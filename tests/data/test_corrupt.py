"""What corruption hides is what the papers say, and no token is lost: source and target together are the text."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_jax.core.table import lookup
from llm_jax.data.corrupt import prefix, rows, spans
from llm_jax.data.corrupt.denoisers import UL2, drawn, infilled, permuted, poisson
from llm_jax.data.corrupt.rows import Texts
from llm_jax.data.features import next_token
from llm_jax.data.order import uniform
from llm_jax.objectives import OBJECTIVES
from llm_jax.text import tokenizers

V, E = 50, 40
SENTINELS = range(V, V + E)


def texts(sizes, width, seed=0):
    ids = np.random.default_rng(seed).integers(1, V, (len(sizes), width)).astype(np.int32)
    return Texts(np.where(np.arange(width) < np.array(sizes)[:, None], ids, 0), np.array(sizes))


def listed(text):
    return [row[:n].tolist() for row, n in zip(text.ids, text.sizes, strict=True)]


def masks(sizes, width, rate, mean, seed=0):
    sizes = np.asarray(sizes)
    random = uniform(seed, 1, np.arange(len(sizes)), 2 * width).reshape(-1, 2, width)
    return spans.mask(random, sizes, spans.amount(sizes, rate, mean))


def runs(row):
    return [len(list(group)) for hidden, group in itertools.groupby(row) if hidden]


@pytest.mark.parametrize(("text", "source", "target"), [(568, 512, 114), (1137, 1024, 229)])
def test_a_text_of_568_tokens_fills_512_of_source_with_a_target_of_114_as_published(text, source, target):
    """T5's compute_input_and_target_lengths, which counts the ids that end both."""
    assert [n + 1 for n in spans.widths(text, 0.15, 3.0)] == [source, target]
    assert spans.widths(text + 1, 0.15, 3.0)[0] + 1 > source


@pytest.mark.parametrize(
    ("size", "rate", "mean"), [(568, 0.15, 3.0), (114, 0.5, 3.0), (400, 0.15, 64.0), (7, 0.15, 3.0)]
)
def test_the_share_hidden_and_the_mean_span_are_those_asked_for(size, rate, mean):
    hidden = masks([size] * 50, size, rate, mean)
    noise = round(size * rate)
    assert set(hidden.sum(1)) == {noise}
    assert {len(runs(row)) for row in hidden} == {max(1, round(noise / mean))}
    assert not hidden[:, 0].any() and hidden[:, -1].all()


def test_every_mask_of_a_size_is_as_likely_as_another():
    found = Counter(map(tuple, masks([8] * 6000, 8, 0.5, 2.0).tolist()))
    assert len(found) == 9  # 4 shown tokens cut in two at one of 3 places, 4 hidden ones likewise
    assert all(abs(count - 6000 / 9) < 5 * (6000 / 9) ** 0.5 for count in found.values())


@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6), seed=st.integers(0, 99), which=st.integers(0, 6))
@settings(max_examples=80, deadline=None)
def test_source_and_target_are_the_text_whatever_its_length(sizes, seed, which):
    text, denoiser = texts(sizes, 40, seed), UL2[which]
    hidden = masks(sizes, 40, denoiser.rate, denoiser.mean or np.inf, seed)
    source, target = spans.corrupt(text, hidden, SENTINELS[-1])
    for whole, a, b in zip(listed(text), listed(source), listed(target), strict=True):
        assert spans.restore(a, b, SENTINELS) == whole
        used = [i for i in a if i in SENTINELS]
        assert used == [i for i in b if i in SENTINELS] == list(SENTINELS[::-1][: len(used)])


def test_a_padded_text_is_hidden_as_much_as_a_whole_one_of_its_length():
    short, whole = masks([30] * 40, 64, 0.15, 3.0), masks([30] * 40, 30, 0.15, 3.0)
    assert not short[:, 30:].any() and set(short.sum(1)) == set(whole.sum(1)) == {4}


def test_ul2_draws_each_denoiser_alike_and_its_sequential_one_hides_the_last_quarter():
    numbers = np.arange(7000)
    chosen, hidden = drawn(uniform(0, 2, numbers, 1)[:, 0], np.full(7000, 512))
    counts = np.bincount(chosen, minlength=7)
    assert np.abs(counts - 1000).max() < 5 * 1000**0.5
    for i, denoiser in enumerate(UL2):
        noise = round(512 * denoiser.rate)
        assert set(hidden.noise[chosen == i]) == {noise}
        assert set(hidden.spans[chosen == i]) == {round(noise / (denoiser.mean or noise))}
    sequential = masks([512] * 3, 512, 0.25, np.inf)
    assert (sequential == (np.arange(512) >= 384)).all()


def test_poisson_numbers_have_the_published_mean_and_variance():
    lengths = poisson(uniform(0, 3, np.arange(200), 500), 3.0)
    assert abs(lengths.mean() - 3) < 0.03 and abs(lengths.var() - 3) < 0.1
    assert abs((lengths == 0).mean() - np.exp(-3)) < 0.004


@given(sizes=st.lists(st.integers(0, 60), min_size=1, max_size=5), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_infilling_hides_the_share_asked_for_and_has_one_mask_a_span(sizes, seed):
    text = texts(sizes, 60, seed)
    random = uniform(seed, 4, np.arange(len(sizes)), 2 * 61).reshape(-1, 2, 61)
    source, lengths = infilled(text, random, rate=0.3, mean=3.0, mask=V)
    for whole, read, length in zip(listed(text), listed(source), lengths, strict=True):
        shown = [i for i in read if i != V]
        budget = min(int(np.ceil(np.float32(len(whole)) * np.float32(0.3))), len(whole) // 2)
        assert len(shown) == len(whole) - budget and length[length > 0].sum() == budget
        assert read.count(V) == (length >= 0).sum() and (V, V) not in itertools.pairwise(read)
        rest = iter(whole)
        assert all(i in rest for i in shown), "what is shown stands in the order of the text"


def test_an_infilled_text_is_whole_again_when_spans_are_put_back():
    ids = np.arange(1, 41, dtype=np.int32)[None]
    random = uniform(0, 5, np.arange(1), 82).reshape(1, 2, 41)
    source, _ = infilled(Texts(ids, np.array([40])), random, rate=0.3, mean=3.0, mask=99)
    read = [0, *source.ids[0, : source.sizes[0]], 41]
    gaps = [b - a - 1 for a, b in itertools.pairwise(read) if 99 not in (a, b)]
    assert not any(gaps), "only a mask hides anything"


def test_the_last_span_has_what_remains_where_all_before_it_are_empty():
    random = np.stack([np.zeros(21), np.arange(21) / 21])[None]
    source, lengths = infilled(texts([20], 20), random, rate=0.3, mean=3.0, mask=V)
    assert lengths[0, :7].tolist() == [0, 0, 0, 0, 0, 6, -1] and source.sizes.tolist() == [20]


def test_infilling_hides_the_end_and_the_beginning_too():
    text = texts([20] * 400, 20)
    source, _ = infilled(text, uniform(0, 4, np.arange(400), 42).reshape(-1, 2, 21), rate=0.3, mean=3.0, mask=V)
    assert 20 < (source.ids[:, 0] == V).sum() < 200
    assert 20 < sum(row[-1] == V for row in listed(source)) < 200


def test_sentences_change_places_whole_and_padding_stays():
    closes = np.zeros(V, bool)
    closes[9] = True
    text = Texts(np.array([[1, 2, 9, 3, 9, 4, 5, 6, 9, 7, 0, 0]], np.int32), np.array([10]))
    found = set()
    for number in range(300):
        row = permuted(text, uniform(0, 6, np.array([number]), 12), closes)
        assert row.ids[0, 10:].tolist() == [0, 0] and row.sizes.tolist() == [10]
        found.add(tuple(row.ids[0, :10].tolist()))
    sentences = [(1, 2, 9), (3, 9), (4, 5, 6, 9), (7,)]
    assert found == {sum(order, ()) for order in itertools.permutations(sentences)}


def test_a_prefix_and_its_rest_are_the_text_and_every_cut_is_as_likely():
    text = texts([0, 1, 2, 5] * 500, 6)
    given_ = prefix.cut(uniform(0, 7, np.arange(2000), 1)[:, 0], text.sizes)
    first, rest = prefix.halves(text, given_)
    assert [a + b for a, b in zip(listed(first), listed(rest), strict=True)] == listed(text)
    cuts = [Counter(given_[text.sizes == n].tolist()) for n in (0, 1, 2, 5)]
    assert [set(cut) for cut in cuts] == [{0}, {0}, {1}, {1, 2, 3, 4}]
    assert min(cuts[3].values()) > 80


def test_a_text_of_a_row_is_every_target_that_has_weight():
    fields = {"targets": [[5, 6, 7, 8]], "weights": [[1, 0, 1, 1.0]], "segments": [[1, 1, 1, 0]]}
    assert listed(rows.texts({name: np.array(value) for name, value in fields.items()})) == [[5, 7]]


RESHAPED = [
    ("masked", {"sentence_order": 0.5}), ("span", {}), ("denoising", {}), ("ul2", {}), ("prefix", {}),
    ("prefix", {"encoded": True}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), RESHAPED)
def test_any_number_of_hosts_reshapes_each_row_alike_and_rows_without_text_stay_without_weight(name, options):
    words = tokenizers.build("bytes")
    reshape = lookup(OBJECTIVES, name, "objective.name")(**options).transform(words, 32, 3)
    fields = next_token(np.random.default_rng(5).integers(0, 256, (6, 33)))
    fields["weights"] = (np.arange(32) < np.array([[32], [0], [1], [7], [2], [0]])).astype(np.float32)
    numbers = np.array([5, 9, 2**40, 7, 1, 0])
    whole, other = reshape(fields, numbers), reshape(fields, numbers + 100)
    for hosts in (2, 3, 6):
        shares = np.split(np.arange(6), hosts)
        parts = [reshape({k: v[rows] for k, v in fields.items()}, numbers[rows]) for rows in shares]
        assert all(part.keys() == whole.keys() for part in parts)
        for key, values in whole.items():
            np.testing.assert_array_equal(values, np.concatenate([part[key] for part in parts]), err_msg=key)
    assert not whole["weights"][[1, 5]].any() and whole["weights"][0].any()
    assert any((other[key][0] != values[0]).any() for key, values in whole.items())
