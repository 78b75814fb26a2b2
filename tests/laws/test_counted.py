"""What holds for models of counts and probabilities: normalised, causal by construction, and counted in any order."""

import itertools
import math
from collections import Counter, defaultdict
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax.core.table import UserError
from llm_jax.learn.counting import counting, ready
from llm_jax.learn.gradient import descent
from llm_jax.models.classical import tables
from llm_jax.models.classical.backoff import Backoff
from llm_jax.models.classical.ngram import Ngram
from llm_jax.models.decoder.llama import Llama
from llm_jax.objectives.causal import Causal

V = 11
rng = np.random.default_rng(8)
TEXT = (rng.integers(0, V, 600) * rng.integers(0, 2, 600)).astype(np.int32)
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


def batches(rows=2, length=60, count=5):
    windows = [TEXT[i * length : (i + 1) * length + 1] for i in range(rows * count - 1)]
    windows = [w for w in windows if len(w) == length + 1]
    return [
        {"tokens": np.stack(w)[:, :-1], "targets": np.stack(w)[:, 1:]}
        for w in (windows[i : i + rows] for i in range(0, len(windows) - rows + 1, rows))
    ]


def learned(model, given=None):
    learner = counting(model, Causal(), optax.identity(), microbatches=1, batch_size=2)
    state, update = learner.init(jax.random.key(0)), jax.jit(learner.update)
    for batch in batches() if given is None else given:
        state, stats = update(state, batch)
    return state, stats


def small(**more):
    return Ngram(**{"vocab_size": V, "order": 3, "capacity": 2048, "buffer": 200} | more)


def grams(order):
    """All n-grams of the batches, their beginnings filled with V, in the order of the text."""
    for batch in batches():
        for tokens, targets in zip(batch["tokens"], batch["targets"], strict=True):
            row = ([V] * (order - 2) + tokens.tolist()) if order > 1 else []
            for t, target in enumerate(targets.tolist()):
                yield (*row[t : t + order - 1], target)


def by_hand(order, min_count=1):
    """(context, word) -> probability of modified Kneser-Ney by dictionaries (Chen & Goodman 1999, eq. 16 and 17)."""
    counts = {order: Counter(grams(order))}
    for n in range(order - 1, 0, -1):
        counts[n] = Counter(gram[1:] for gram in counts[n + 1])
    discounts = {}
    for n, table in counts.items():
        of = Counter(table.values())
        y = of[1] / max(of[1] + 2 * of[2], 1)
        values = {c: c - (c + 1) * y * of[c + 1] / max(of[c], 1) for c in (1, 2, 3)}
        discounts[n] = {c: d if of[c] and 0 < d < c else 0.75 for c, d in values.items()}
        if n == order:
            discounts[n] |= {c: float(c) for c in range(1, min_count)}
    followers = {n: defaultdict(dict) for n in counts}
    for n, table in counts.items():
        for gram, count in table.items():
            followers[n][gram[:-1]][gram[-1]] = count

    def p(context, word, n):
        if n == 0:
            return 1 / V
        seen = followers[n].get(tuple(context[len(context) - n + 1 :]), {})
        if not seen:
            return p(context, word, n - 1)
        total = sum(seen.values())
        kept = max(seen.get(word, 0) - (discounts[n][min(seen[word], 3)] if word in seen else 0), 0)
        freed = sum(discounts[n][min(count, 3)] for count in seen.values())
        return (kept + freed * p(context, word, n - 1)) / total

    return lambda context, word: p(context, word, order)


@pytest.mark.parametrize(
    ("order", "min_count"), [(1, 1), (3, 1), pytest.param(4, 1, marks=pytest.mark.exhaustive), (3, 3)]
)
def test_kneser_ney_is_the_formula(order, min_count):
    model = small(order=order, min_count=min_count)
    state, _ = learned(model)
    context = np.array(list(itertools.product([0, 3, 7, V], repeat=max(1, order - 1))), np.int32)
    table = jax.jit(lambda p, c: model._outputs(p, c).logits)(state.params, context[None])[0]
    p = by_hand(order, min_count)
    known = [tuple(row) if order > 1 else () for row in context.tolist()]
    expected = [[p(row, w) for w in range(V)] for row in known]
    close(np.exp(table), expected)


def test_add_k_is_the_formula():
    model = small(smoothing="add_k", add=0.5)
    state, _ = learned(model)
    counts = Counter(grams(3))
    context = np.array(list(itertools.product([0, 5, V], repeat=2)), np.int32)
    table = jax.jit(lambda p, c: model._outputs(p, c).logits)(state.params, context[None])[0]
    for row, found in zip(context.tolist(), np.exp(table), strict=True):
        seen = np.array([counts[(*row, w)] for w in range(V)])
        close(found, (seen + 0.5) / (seen.sum() + 0.5 * V))


@pytest.mark.parametrize("order", [0, 1, 3, 7])
def test_probabilities_add_up_to_one(order):
    model = small(order=order)
    state, _ = learned(model)
    logits = jax.jit(lambda p, b: model.apply(p, b).logits)(state.params, batches()[0])
    close(jax.nn.logsumexp(logits, axis=-1), 0, atol=1e-5)


def test_order_0_knows_nothing():
    state, _ = learned(small(order=0))
    close(small(order=0).apply(state.params, batches()[0]).logits, -math.log(V))


def test_counts_do_not_depend_on_how_they_came():
    """In whichever batches, waiting for long or short: the same bits in the table."""
    wide = [{k: np.concatenate([b[k] for b in batches()]) for k in ("tokens", "targets")}]
    first = ready(small(), learned(small())[0].params)
    for model, given in ((small(buffer=120), batches()), (small(buffer=4096), wide), (small(), batches()[::-1])):
        second = ready(model, learned(model, given)[0].params)
        for name in ("grams", "counts", "distinct"):
            np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.exhaustive
def test_a_model_that_is_ready_says_what_one_that_is_not_does():
    state, _ = learned(small())
    batch = batches()[1]
    close(small().apply(ready(small(), state.params), batch).logits, small().apply(state.params, batch).logits)


def test_targets_of_no_weight_are_not_counted():
    batch = batches()[0]
    weights = np.ones((2, 60), np.float32)
    weights[:, 40:] = 0
    short = {k: v[:, :40] for k, v in batch.items()}
    one, two = (ready(small(), learned(small(), [b])[0].params) for b in (batch | {"weights": weights}, short))
    np.testing.assert_array_equal(one["counts"], two["counts"])


def test_texts_of_a_row_do_not_see_each_other():
    packed = {"tokens": TEXT[None, :40], "segments": np.repeat([[1, 2]], 20, axis=1).astype(np.int32)}
    apart = {"tokens": TEXT[:40].reshape(2, 20)}
    one, two = (ready(small(), learned(small(), [b])[0].params) for b in (packed, apart))
    np.testing.assert_array_equal(one["counts"], two["counts"])
    np.testing.assert_array_equal(one["grams"], two["grams"])


def test_more_than_there_is_room_for_is_said_with_the_way_out():
    learner = counting(small(capacity=16), Causal(), optax.identity(), microbatches=1, batch_size=2)
    state, update = learner.init(jax.random.key(0)), jax.jit(learner.update)
    for batch in batches():
        state, stats = update(state, batch)
    assert np.isnan(stats["distinct"].total) and "model.capacity" in learner.advice["distinct"]


@pytest.mark.parametrize("vocab_size", [2, 11, 254, 255, 40_000, 70_000])
@pytest.mark.parametrize("order", [1, 2, 5, 7])
def test_what_is_packed_is_unpacked_and_keeps_its_order(vocab_size, order):
    tokens = rng.integers(0, vocab_size + 2, (50, order)).astype(np.int32)
    words = np.asarray(tables.pack(tokens, vocab_size))
    np.testing.assert_array_equal(tables.unpack(words, order, vocab_size), tokens)
    assert sorted(map(tuple, words.tolist())) == [tuple(words[i].tolist()) for i in np.lexsort(tokens.T[::-1])]
    assert not (words == tables.UNUSED).all(1).any()


def test_rows_of_a_context_are_found():
    tokens = rng.integers(0, V, (300, 3)).astype(np.int32)
    table = tables.counted(tables.pack(tokens, V), jnp.ones(300, jnp.int32), 512)
    kept = np.asarray(tables.unpack(table.grams, 3, V))[: int(table.distinct)]
    assert sorted({tuple(row) for row in tokens.tolist()}) == [tuple(row) for row in kept.tolist()]
    contexts = np.array(list(itertools.product(range(V + 1), repeat=2)), np.int32)
    rows = [np.asarray(end).tolist() for end in tables.span(table.grams, contexts, V)]
    for context, first, after in zip(contexts.tolist(), *rows, strict=True):
        wanted = [row for row in kept.tolist() if row[:2] == context]
        assert kept.tolist()[first:after] == wanted


@pytest.mark.parametrize("model", [Ngram(V), Backoff(V, (V, 9))])
def test_counts_and_tables_have_no_gradient(model):
    with pytest.raises(UserError, match=r'"gradient" learns real numbers.* is u?int32; .*"counting"'):
        descent(model, Causal(), optax.identity())


def test_a_batch_beyond_the_buffer_and_a_model_that_does_not_count_are_refused():
    with pytest.raises(UserError, match=r"model\.buffer=64"):
        learned(small(buffer=64))
    with pytest.raises(UserError, match="counts"):
        llama = Llama(vocab_size=V, num_layers=1, embed_dim=16, num_heads=2)
        counting(llama, Causal(), optax.identity(), microbatches=1, batch_size=2)


@pytest.mark.parametrize(
    ("field", "value"), [("order", 8), ("smoothing", "good_turing"), ("min_count", 4), ("order", -1), ("add", 0.0)]
)
def test_what_makes_no_model_is_refused(field, value):
    with pytest.raises(UserError, match=rf"model\.{field}={value!r}"):
        small(**{field: value})


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_add_k_is_that_of_nltk():
    """Whose vocabulary has one word more than the text: the unknown one."""
    lm, util = pytest.importorskip("nltk.lm"), pytest.importorskip("nltk.util")
    row = TEXT[:400] % (V - 1)
    model = small(smoothing="add_k", add=0.5, buffer=512)
    learner = counting(model, Causal(), optax.identity(), microbatches=1, batch_size=1)
    state, _ = learner.update(learner.init(jax.random.key(0)), {"tokens": row[None, :-1], "targets": row[None, 1:]})
    words = [str(token) for token in row]
    theirs = lm.Lidstone(0.5, 3)
    theirs.fit([list(util.ngrams(words, 3))], vocabulary_text=words)
    p = np.exp(jax.jit(lambda p, b: model.apply(p, b).logits)(state.params, {"tokens": row[None]})[0])
    for t in range(1, 200, 7):
        expected = [theirs.score(str(w), words[t - 1 : t + 1]) for w in range(V - 1)]
        close(p[t, : V - 1], expected)
