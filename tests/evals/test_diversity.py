"""How much texts differ from each other, and their likelihood under counts."""

import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from llm_jax.core.table import UserError
from llm_jax.evals.diversity import counted, distinct, diversity, self_bleu
from llm_jax.models.classical.ngram import Ngram
from llm_jax.models.latent.gan import Gan
from llm_jax.run.judge.drawn import drawn
from llm_jax.run.open_run import OpenRun
from llm_jax.text import tokenizers

TEXTS = [[1, 2, 3, 4, 5], [1, 2, 3, 4, 6, 7], [8, 9, 8, 9]]


def test_distinct_n_grams_are_counted_over_all_texts():
    assert distinct([[1, 1, 1], [1, 2]], 1) == 2 / 5 and distinct([[1, 1, 1], [1, 2]], 2) == 2 / 3
    assert distinct(TEXTS, 2) == 8 / 12 and math.isnan(distinct([[1]], 2))


def test_texts_that_are_all_equal_have_a_self_bleu_of_one_and_a_stranger_of_nothing():
    assert self_bleu([[1, 2, 3, 4, 5]] * 3) == pytest.approx(1.0)
    assert self_bleu([[1, 2, 3, 4], [5, 6, 7, 8]]) == 0.0
    assert diversity([[1, 2, 3, 4, 5]] * 5) == pytest.approx({"distinct_1": 0.2, "distinct_2": 0.2, "self_bleu": 1.0})
    with pytest.raises(UserError, match="draw at least 2"):
        self_bleu([[1, 2]])


def test_self_bleu_is_the_formula():
    """Of the first of `TEXTS` (Papineni et al. 2002): 4/5, 3/4, 2/3 and 1/2 match; the nearest reference has 4."""
    first, second = (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25, (4 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert self_bleu(TEXTS) == pytest.approx((first + second + 0.0) / 3)
    assert self_bleu([[1, 1], [1, 2], [1, 3]], 1) == 0.5  # as often as in the one reference that has it most
    shorter = self_bleu([[1, 2, 3, 4], [1, 2, 3, 4, 5, 6]])  # exp(1 - 6/4) of the first, whose n-grams all match
    assert shorter == pytest.approx((math.exp(-0.5) + (4 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25) / 2)


@pytest.mark.oracle
def test_self_bleu_is_that_of_nltk():
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    rng = np.random.default_rng(3)
    texts = [rng.integers(0, 6, size).tolist() for size in (3, 9, 12, 12, 15, 20)]
    scores = [
        sentence_bleu(texts[:i] + texts[i + 1 :], text, smoothing_function=SmoothingFunction().method1)
        for i, text in enumerate(texts)
    ]
    assert self_bleu(texts) == pytest.approx(float(np.mean(scores)))


def test_the_bits_of_texts_under_counts_are_those_of_their_tokens():
    """Of equally likely ids each token has log2 V bits."""
    model = Ngram(vocab_size=8, order=0)
    sizes = np.array([1, 2, 3, 4, 1, 1, 1, 1])
    texts = np.array([[0, 1, 2], [3, 3, 1]])
    found = counted(model, model.ready(model.init(jax.random.key(0))), texts, sizes)
    assert found.value == pytest.approx(4 * math.log2(8) / (2 + 3 + 4 + 2)) and found.count == 11


def opened(model, words):
    run = OpenRun.__new__(OpenRun)
    params = model.init(jax.random.key(0))
    values = {"model": {"name": "gan"}, "data": {"seq_len": 6}}
    told = {"model": model, "tokenizer": words, "workdir": SimpleNamespace(path="runs/it"), "params": lambda: params}
    run.__dict__ |= told | {"resolved": SimpleNamespace(values=values)}
    return run


def test_texts_of_a_generator_are_judged_by_n_grams_of_its_tokenizer():
    """Under equally likely ids each byte has log2 V bits, whatever was drawn."""
    words, others = tokenizers.build("bytes", {}), tokenizers.build("characters", {}, texts=lambda: ["abc"])
    gan = Gan(vocab_size=words.vocab_size, max_positions=6, num_layers=1, embed_dim=8, num_heads=2, latent_dim=2)
    run, counts = opened(gan, words), Ngram(vocab_size=words.vocab_size, order=0, capacity=8, buffer=8)
    found = drawn(run, run.params(), 4, opened(counts, words))
    assert {"distinct_1", "distinct_2", "self_bleu", "under_bits"} == set(found) and 0.3 < found["distinct_1"] <= 1
    assert found["under_bits"] == pytest.approx(math.log2(words.vocab_size), rel=0.3)  # the end of a text has no byte
    for under, message in ((opened(counts, others), "another tokenizer"), (run, "no run of n-grams")):
        with pytest.raises(UserError, match=message):
            drawn(run, run.params(), 4, under)
