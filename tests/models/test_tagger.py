"""Tagging by counts: they are those of the text, the path is the best of all paths, and EM goes on from them."""

import itertools
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from llm_jax.core.table import UserError
from llm_jax.learn.em import em
from llm_jax.models.classical.hmm import Hmm
from llm_jax.run import build
from llm_jax.run.config import load_recipe, resolve

LABELS = ("x", "y", "z")
MODEL = Hmm(vocab_size=7, floor=0.5).tagger(LABELS)
RNG = np.random.default_rng(0)


def batch_of(texts, width=9):
    """Texts of words [(tokens, tag), …] as the form `tagged` lays them out: 6 begins and ends a text."""
    rows = {name: np.zeros((len(texts), width), kind) for name, kind in
            (("tokens", np.int32), ("segments", np.int32), ("tags", np.int32), ("weights", np.float32))}  # fmt: skip
    for row, text in enumerate(texts):
        at = 1
        rows["tokens"][row, 0] = 6
        for tokens, tag in text:
            rows["tokens"][row, at : at + len(tokens)] = tokens
            rows["tags"][row, at], rows["weights"][row, at] = tag, 1
            at += len(tokens)
        rows["tokens"][row, at] = 6
        rows["segments"][row, : at + 1] = 1
    return rows


TEXTS = [[([1], 0), ([2, 3], 1), ([1], 0), ([4], 2)], [([5, 0], 2), ([1], 2)], [([2], 1), ([1, 1, 5], 0)]]


def counted():
    return jax.jit(MODEL.count)(MODEL.init(jax.random.key(0)), batch_of(TEXTS))


def test_counts_are_those_of_words_and_of_the_tokens_in_them():
    params = counted()
    np.testing.assert_array_equal(params["start"], [1, 1, 1])
    np.testing.assert_array_equal(params["transition"], [[0, 1, 1], [2, 0, 0], [0, 0, 1]])
    emission = np.zeros((3, 7))
    for text in TEXTS:
        for tokens, tag in text:
            np.add.at(emission[tag], tokens, 1)
        emission[text[-1][1], 6] += 1  # what ends the text
    np.testing.assert_array_equal(params["emission"], emission)
    assert params["distinct"] == (emission > 0).sum() and MODEL.capacity == 21
    twice = MODEL.count(params, batch_of(TEXTS))
    np.testing.assert_array_equal(twice["emission"], 2 * emission)


def test_scores_are_of_the_best_of_all_paths_with_each_tag():
    params = counted()
    start, transition, emission = (
        np.log((c + 0.5) / (c + 0.5).sum(-1, keepdims=True))
        for c in (np.asarray(params[n]) for n in ("start", "transition", "emission"))
    )
    text = [([1, 4], 0), ([2], 0), ([5], 0), ([3], 0)]
    found = jax.jit(lambda b: MODEL.apply(params, b).extras["scores"])(batch_of([text]))[0, np.array([1, 3, 4, 5])]
    best = np.full((4, 3), -np.inf)
    for path in itertools.product(range(3), repeat=4):
        score = start[path[0]] + sum(transition[a, b] for a, b in itertools.pairwise(path)) + emission[path[-1], 6]
        score += sum(emission[tag, tokens].sum() for tag, (tokens, _) in zip(path, text, strict=True))
        for at, tag in enumerate(path):
            best[at, tag] = max(best[at, tag], score)
    np.testing.assert_allclose(found, best, rtol=1e-5)


@pytest.mark.oracle
def test_the_path_is_that_of_nltk():
    """Words of one token, and texts that nothing ends."""
    from nltk.probability import LidstoneProbDist
    from nltk.tag.hmm import HiddenMarkovModelTrainer

    texts = [[([int(w)], int(t)) for w, t in RNG.integers(0, (6, 3), (size, 2))] for size in (9, 4, 7, 5, 8, 6)]
    rows = batch_of(texts, 11)
    rows["segments"][rows["tokens"] == 6] = 0
    model = Hmm(vocab_size=6, floor=0.5).tagger(LABELS)
    params = model.count(model.init(jax.random.key(0)), rows)
    found = np.asarray(model.apply(params, rows).extras["scores"]).argmax(-1)
    trainer = HiddenMarkovModelTrainer(range(3), range(6))
    pairs = [[(tokens[0], tag) for tokens, tag in text] for text in texts]
    other = trainer.train_supervised(pairs, estimator=lambda counts, bins: LidstoneProbDist(counts, 0.5, bins))
    for row, text in enumerate(pairs):
        assert other.best_path([w for w, _ in text]) == found[row][rows["weights"][row] > 0].tolist()


def chances(model, params):
    return [np.asarray(model._probabilities(params)[name], np.float64) for name in ("start", "transition", "emission")]


def test_expected_counts_are_those_of_all_taggings_by_their_probability():
    params = counted()
    start, transition, emission = chances(MODEL, params)
    text = [([1, 4], 0), ([2], 0), ([5], 0), ([3], 0)]
    sums, loss = jax.jit(MODEL.expectations)(params, batch_of([text]))
    total, expected = 0.0, {"start": np.zeros(3), "transition": np.zeros((3, 3)), "emission": np.zeros((3, 7))}
    for path in itertools.product(range(3), repeat=4):
        log_p = start[path[0]] + sum(transition[a, b] for a, b in itertools.pairwise(path)) + emission[path[-1], 6]
        p = np.exp(log_p + sum(emission[tag, tokens].sum() for tag, (tokens, _) in zip(path, text, strict=True)))
        total += p
        expected["start"][path[0]] += p
        for pair in itertools.pairwise(path):
            expected["transition"][pair] += p
        for tag, (tokens, _) in [*zip(path, text, strict=True), (path[-1], ([6], 0))]:
            np.add.at(expected["emission"][tag], tokens, p)
    np.testing.assert_allclose(-loss.total, np.log(total), rtol=1e-5)
    assert loss.weight == 6, "tokens of words and what ends the text"
    for name, counts in expected.items():
        np.testing.assert_allclose(sums[name], counts / total, rtol=1e-4, atol=1e-6)


def test_em_on_words_alone_never_lowers_what_it_climbs():
    """The likelihood times the prior of `floor` counts more of everything, and it does not see the tags."""
    learner = em(MODEL, None, None, microbatches=1, batch_size=3)
    batch = batch_of(TEXTS)
    state, climbed = replace(learner.init(jax.random.key(0)), params=counted()), []
    update = jax.jit(learner.update)
    for tags in (batch["tags"], *[np.zeros_like(batch["tags"])] * 7):
        prior = MODEL.floor * sum(table.sum() for table in chances(MODEL, state.params))
        state, stats = update(state, batch | {"tags": tags})
        climbed.append(prior - float(stats["loss"].total))
    assert all(b >= a - 1e-4 for a, b in itertools.pairwise(climbed)) and climbed[-1] > climbed[0] + 0.5


@pytest.mark.oracle
def test_a_step_of_em_is_that_of_nltk():
    """Words of one token, and texts that nothing ends; nltk leaves the first tags as they are."""
    from nltk.probability import LidstoneProbDist
    from nltk.tag.hmm import HiddenMarkovModelTrainer

    texts = [[([int(w)], int(t)) for w, t in RNG.integers(0, (6, 3), (size, 2))] for size in (9, 4, 7, 5, 8, 6)]
    rows = batch_of(texts, 11)
    rows["segments"][rows["tokens"] == 6] = 0
    model = Hmm(vocab_size=6, floor=0.5).tagger(LABELS)
    params = model.count(model.init(jax.random.key(0)), rows)
    sums, _ = model.expectations(params, rows)
    trainer = HiddenMarkovModelTrainer([0, 1, 2], [0, 1, 2, 3, 4, 5])
    pairs = [[(tokens[0], tag) for tokens, tag in text] for text in texts]
    begun = trainer.train_supervised(pairs, estimator=lambda counts, bins: LidstoneProbDist(counts, 0.5, bins))
    other = trainer.train_unsupervised(
        [[(word, None) for word, _ in text] for text in pairs], model=begun, max_iterations=1, verbose=False
    )
    for tag in range(3):
        for name, table, size in (("transition", other._transitions, 3), ("emission", other._outputs, 6)):
            ours = np.asarray(sums[name][tag]) / sums[name][tag].sum()
            np.testing.assert_allclose(ours, [table[tag].prob(i) for i in range(size)], rtol=1e-4)


def test_em_that_has_no_counts_to_go_on_from_is_refused():
    """Equal tags would stay equal for ever."""
    recipe = load_recipe(f"{Path(__file__).parents[2]}/configs/tag_brown.py:em")
    build.check(resolve(recipe))
    recipe["init_from"] = None
    with pytest.raises(UserError, match="init_from=WORKDIR"):
        build.check(resolve(recipe))
