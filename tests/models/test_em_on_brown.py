"""Baum-Welch on sentences of the Brown corpus beside hmmlearn and nltk: one and two steps from the same start."""

import json
from collections import Counter
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from llm_jax.data.fetch import fetch
from llm_jax.learn.em import em
from llm_jax.models.classical.hmm import Hmm, normalized

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

WORDS, TAGS, LONGEST = 60, 6, 12  # ids of words and of tags, the last of them for all that are rarer
TABLES = ("start", "transition", "emission")
close = partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-6)


@pytest.fixture(scope="module")
def brown():
    """The first 48 short sentences, each a list of (word, tag) as ids."""
    with open(fetch("brown")) as lines:
        rows = [row for row in map(json.loads, lines) if 1 <= len(row["tokens"]) <= LONGEST][:48]
    words, tags = (ranked([row[name] for row in rows], most) for name, most in (("tokens", WORDS), ("tags", TAGS)))
    return [list(zip(*pair, strict=True)) for pair in zip(words, tags, strict=True)]


def ranked(rows, most):
    rank = {kind: i for i, (kind, _) in enumerate(Counter(kind for row in rows for kind in row).most_common(most - 1))}
    return [[rank.get(kind, most - 1) for kind in row] for row in rows]


def batch_of(sentences):
    """A row each; what the tagger reads as well: every token is a word."""
    tokens, segments = np.zeros((2, len(sentences), LONGEST), np.int32)
    for row, sentence in enumerate(sentences):
        tokens[row, : len(sentence)], segments[row, : len(sentence)] = [word for word, _ in sentence], 1
    return {"tokens": tokens, "segments": segments, "weights": segments.astype(np.float32)}


def learnt(model, params, batch, steps, keep=()):
    """Parameters after so many batches of the learner; those that are named in `keep` stay as they were."""
    learner = em(model, None, None, microbatches=1, batch_size=len(batch["tokens"]))
    state, update = replace(learner.init(jax.random.key(0)), params=params), jax.jit(learner.update)
    for _ in range(steps):
        state, _ = update(state, batch)
        state = replace(state, params=state.params | {name: params[name] for name in keep})
    return state.params


@pytest.mark.parametrize("steps", [1, 2])
def test_it_is_that_of_hmmlearn(brown, steps):
    from hmmlearn.hmm import CategoricalHMM

    model = Hmm(WORDS, TAGS, floor=1e-9)
    params = model.init(jax.random.key(4))
    p = {name: np.exp(np.asarray(value, np.float64)) for name, value in normalized(params).items()}
    p = {name: value / value.sum(-1, keepdims=True) for name, value in p.items()}
    other = CategoricalHMM(TAGS, n_features=WORDS, init_params="", n_iter=steps, tol=-np.inf)
    other.startprob_, other.transmat_, other.emissionprob_ = (p[name] for name in TABLES)
    other.fit(np.array([[word] for sentence in brown for word, _ in sentence]), [len(s) for s in brown])
    ours = normalized(learnt(model, params, batch_of(brown), steps))
    for name, theirs in zip(TABLES, (other.startprob_, other.transmat_, other.emissionprob_), strict=True):
        close(np.exp(ours[name]), theirs)


@pytest.mark.parametrize("steps", [1, 2])
def test_of_tags_it_is_that_of_nltk(brown, steps):
    """From the counts of the tagged sentences; nltk leaves the first tags as they are."""
    from nltk.probability import LidstoneProbDist
    from nltk.tag.hmm import HiddenMarkovModelTrainer

    model, batch = Hmm(WORDS, floor=1e-9).tagger(tuple(map(str, range(TAGS)))), batch_of(brown)
    tags = np.zeros_like(batch["tokens"])
    for row, sentence in enumerate(brown):
        tags[row, : len(sentence)] = [tag for _, tag in sentence]
    counts = model.count(model.init(jax.random.key(0)), batch | {"tags": tags})
    params = counts | {name: counts[name] + 0.5 for name in TABLES}
    trainer = HiddenMarkovModelTrainer(list(range(TAGS)), list(range(WORDS)))
    begun = trainer.train_supervised(brown, estimator=lambda found, bins: LidstoneProbDist(found, 0.5, bins))
    other = trainer.train_unsupervised(
        [[(word, None) for word, _ in sentence] for sentence in brown], model=begun, max_iterations=steps
    )
    ours = model._probabilities(learnt(model, params, batch, steps, keep=("start",)))
    for name, table, size in (("transition", other._transitions, TAGS), ("emission", other._outputs, WORDS)):
        close(np.exp(ours[name]), [[table[tag].prob(i) for i in range(size)] for tag in range(TAGS)])
