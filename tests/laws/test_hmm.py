"""What holds for hidden Markov models: probabilities by enumeration and by hmmlearn, and EM that never gets worse."""

import itertools
from functools import partial

import jax
import numpy as np
import optax
import pytest

from llm_jax.core.table import UserError
from llm_jax.learn.em import em
from llm_jax.models.classical.hmm import Hmm, normalized
from llm_jax.models.classical.ngram import Ngram
from llm_jax.objectives.causal import Causal

MODEL = Hmm(vocab_size=6, num_states=3, floor=1e-9)
rng = np.random.default_rng(5)
PARAMS = {k: rng.normal(size=d.shape).astype(np.float32) for k, d in MODEL.declarations().items()}
TOKENS = rng.integers(0, 6, (3, 10)).astype(np.int32)
RAGGED = np.stack([[1] * 10, [1] * 4 + [2] * 6, [1] * 7 + [0] * 3]).astype(np.int32)
BATCH = {"tokens": TOKENS, "segments": RAGGED}
TEXTS = [TOKENS[0], TOKENS[1, :4], TOKENS[1, 4:], TOKENS[2, :7]]
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def test_the_likelihood_is_the_sum_over_all_ways():
    p = {k: np.asarray(v, np.float64) for k, v in normalized(PARAMS).items()}
    total = 0.0
    for text in TEXTS[1:2]:
        ways = [
            p["start"][z[0]]
            + sum(p["transition"][a, b] for a, b in itertools.pairwise(z))
            + sum(p["emission"][a, x] for a, x in zip(z, text, strict=True))
            for z in itertools.product(range(3), repeat=len(text))
        ]
        total += np.log(np.exp(ways).sum())
        loss = MODEL.expectations(PARAMS, {"tokens": text[None]})[1]
        close(-loss.total, total)


def test_probabilities_add_up_to_one_and_to_the_likelihood():
    logits = MODEL.apply(PARAMS, BATCH).logits
    close(jax.nn.logsumexp(logits, axis=-1), 0)
    p = normalized(PARAMS)
    first = np.log(np.exp(p["start"]) @ np.exp(p["emission"]))[TOKENS[0, 0]]
    rest = np.take_along_axis(np.asarray(logits[0, :-1]), TOKENS[0, 1:, None], 1).sum()
    close(-MODEL.expectations(PARAMS, {"tokens": TOKENS[:1]})[1].total, first + rest)


def test_expected_counts_of_halves_are_those_of_the_whole():
    whole = MODEL.expectations(PARAMS, BATCH)
    halves = [MODEL.expectations(PARAMS, {k: v[s] for k, v in BATCH.items()}) for s in (slice(2), slice(2, 3))]
    jax.tree.map(close, whole, jax.tree.map(np.add, *halves))


@pytest.mark.parametrize("every", [1, 2])
def test_em_never_lowers_the_likelihood(every):
    learner = em(Hmm(6, 3, floor=1e-9, every=every), Causal(), optax.identity(), microbatches=1, batch_size=3)
    state, update, losses = learner.init(jax.random.key(0)), jax.jit(learner.update), []
    for _ in range(12):
        state, stats = update(state, BATCH)
        losses.append(float(stats["loss"].value))
    assert all(b <= a + 1e-6 for a, b in itertools.pairwise(losses)) and losses[-1] < losses[0] - 0.05
    assert (losses[0] == losses[1]) == (every == 2)


def test_a_model_without_hidden_states_is_refused():
    with pytest.raises(UserError, match="hmm"):
        em(Ngram(6, capacity=8, buffer=8), Causal(), optax.identity(), microbatches=1, batch_size=1)


@pytest.mark.oracle
def test_hmmlearn_says_the_same():
    hmmlearn = pytest.importorskip("hmmlearn.hmm")
    p = {k: np.exp(np.asarray(v, np.float64)) for k, v in normalized(PARAMS).items()}
    p = {k: v / v.sum(-1, keepdims=True) for k, v in p.items()}
    other = hmmlearn.CategoricalHMM(3, n_features=6, init_params="", n_iter=1, tol=-np.inf)
    other.startprob_, other.transmat_, other.emissionprob_ = p["start"], p["transition"], p["emission"]
    lengths = [len(t) for t in TEXTS]
    line = np.concatenate(TEXTS)[:, None]
    sums, loss = MODEL.expectations(PARAMS, BATCH)
    close(-loss.total, other.score(line, lengths))
    real = RAGGED > 0
    close(np.asarray(MODEL.posteriors(PARAMS, BATCH))[real], other.predict_proba(line, lengths))
    best, states = other.decode(line, lengths)
    ours, scores = MODEL.viterbi(PARAMS, BATCH)
    np.testing.assert_array_equal(np.asarray(ours)[real], states)
    scores = np.asarray(scores)
    close(scores[0, 9] + scores[1, 3] + scores[1, 9] + scores[2, 6], best)
    other.fit(line, lengths)
    mine = jax.tree.map(np.exp, MODEL.maximize(sums))
    close(mine["start"], other.startprob_)
    close(mine["transition"], other.transmat_)
    close(mine["emission"], other.emissionprob_)
