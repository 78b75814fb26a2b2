"""Which texts are to be written, from what; and that they are judged as sacrebleu and rouge-score judge them."""

import numpy as np
import pytest

from llm_jax.core.table import UserError
from llm_jax.evals import generation
from llm_jax.evals.generation import Pair, judge, pairs, resampled

TEXTS = ["the cat sat on the mat", "a dog barks at night", "nothing alike", "Rain."]
REFERENCES = ["the cat sat on a mat", "the dog barks at night", "something else here", "Rain."]


def test_the_target_of_each_segment_is_written_from_its_source():
    batch = {
        "tokens": np.array([[9, 5, 6, 9, 7, 0], [9, 8, 0, 0, 0, 0], [9, 0, 0, 0, 0, 0]]),
        "targets": np.array([[5, 6, 2, 7, 2, 0], [8, 2, 0, 0, 0, 0], [4, 2, 0, 0, 0, 0]]),
        "weights": np.array([[1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]], np.float32),
        "segments": np.array([[1, 1, 1, 2, 2, 0], [1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]]),
        "source_tokens": np.array([[11, 12, 2, 13], [14, 0, 0, 0], [15, 0, 0, 0]]),
        "source_segments": np.array([[1, 1, 1, 2], [1, 0, 0, 0], [1, 0, 0, 0]]),
    }
    assert list(pairs(batch)) == [
        Pair([9], [11, 12, 2], [5, 6, 2]), Pair([9], [13], [7, 2]), Pair([9], [14], [8, 2])
    ]  # fmt: skip


def test_what_carries_no_weight_is_the_prompt_of_a_decoder_and_the_first_answer_its_reference():
    row = {"tokens": [1, 5, 6, 7, 8, 9], "targets": [5, 6, 7, 8, 9, 2], "weights": [0, 0, 1, 1, 0, 1]}
    batch = {name: np.array([values]) for name, values in row.items()}
    assert list(pairs(batch)) == [Pair([1, 5, 6], None, [7, 8])]
    with pytest.raises(UserError, match=r"data\.form="):
        list(pairs(batch | {"weights": np.ones((1, 6))}))


def test_scores_are_those_of_the_foreign_judges():
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    found = judge()(TEXTS, REFERENCES)
    assert found["bleu"].value == sacrebleu.corpus_bleu(TEXTS, [REFERENCES]).score
    assert found["chrf"].value == sacrebleu.corpus_chrf(TEXTS, [REFERENCES]).score
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for ours, theirs in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        each = [scorer.score(r, t)[theirs].fmeasure for t, r in zip(TEXTS, REFERENCES, strict=True)]
        np.testing.assert_allclose(found[ours].value, 100 * np.mean(each))
    assert found["exact"].value == 25 and found["squad_exact"].value == 75  # two differ by their articles
    np.testing.assert_allclose(found["squad_f1"].value, 100 * np.mean([1, 1, 0, 1]))
    for score in found.values():
        assert 0 <= score.low < score.value < score.high <= 100
    assert all(tuple(score) == pytest.approx((100, 100, 100)) for score in judge()(TEXTS[:2], TEXTS[:2]).values())
    assert judge("char")(TEXTS, REFERENCES)["bleu"].value != found["bleu"].value
    assert "tok:char" in judge("char").signature


def test_resamples_without_any_right_word_are_judged_too():
    found = judge()(["a", "b"], ["a", "c"])
    assert found["bleu"].value == 0 < found["chrf"].value and found["squad_f1"].value == 50


def test_an_interval_is_that_of_the_mean():
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    mean, low, high = resampled(values)
    assert mean == values.mean()
    np.testing.assert_allclose([mean - low, high - mean], 1.96 * values.std() / 20, rtol=0.15)
    assert resampled(values) == (mean, low, high)


def test_what_cannot_be_judged_is_refused(monkeypatch):
    with pytest.raises(UserError, match="1 texts and 2 references"):
        judge()(["a"], ["a", "b"])
    with pytest.raises(UserError, match="--tokenize='jp' must be one of: 13a"):
        judge("jp")
    monkeypatch.setitem(__import__("sys").modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(UserError, match=f"rouge_score.*{generation.INSTALL}"):
        judge()
