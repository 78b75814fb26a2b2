"""Scores of given continuations against the logits of the whole text."""

import jax
import numpy as np
import pytest

from llm_jax.core.table import UserError
from llm_jax.decode.score import score
from llm_jax.models.decoder.gpt2 import GPT2

MODEL = GPT2(vocab_size=53, max_positions=40, num_layers=1, embed_dim=16, num_heads=2)
PARAMS = jax.tree.map(lambda x: 4 * x, MODEL.init(jax.random.key(0)))


@jax.jit
def logits(tokens):
    return MODEL.apply(PARAMS, {"tokens": tokens}).logits


def test_a_score_is_the_sum_of_the_log_probabilities_of_its_tokens():
    prompts, continuations = [[1, 2, 3], [4], [5] * 30], [[6, 7], [8], [9, 10, 11]]
    ours = score(MODEL, PARAMS, prompts, continuations)
    assert ours.length.tolist() == [2, 1, 3]
    for row, (prompt, more) in enumerate(zip(prompts, continuations, strict=True)):
        text = np.array([*prompt, *more], np.int32)
        log_p = jax.nn.log_softmax(logits(np.pad(text, (0, 33 - len(text)))[None])[0])
        expected = sum(log_p[at - 1, text[at]] for at in range(len(prompt), len(text)))
        np.testing.assert_allclose(ours.log_prob[row], expected, rtol=1e-5)


def test_the_parts_of_a_continuation_add_up():
    whole = score(MODEL, PARAMS, [[1, 2]], [[3, 4, 5, 6]])
    parts = score(MODEL, PARAMS, [[1, 2], [1, 2, 3, 4]], [[3, 4], [5, 6]])
    np.testing.assert_allclose(parts.log_prob.sum(), whole.log_prob[0], rtol=1e-5)


@pytest.mark.parametrize(
    "prompts, continuations, message",
    [
        ([[]], [[1]], "prompt 0 holds no token"),
        ([[1]], [[]], "continuation 0 holds no token"),
        ([[1], [2]], [[1]], "2 prompts and 1 continuations"),
        ([[1]], [[53]], "continuation 0 holds id 53"),
        ([[1] * 30], [[1] * 12], "model.max_positions=40"),
    ],
)
def test_bad_rows_are_refused(prompts, continuations, message):
    with pytest.raises(UserError, match=message):
        score(MODEL, PARAMS, prompts, continuations)
