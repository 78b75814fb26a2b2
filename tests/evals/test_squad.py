"""Answers are judged as SQuAD's own program judges them, of which torchmetrics has a copy."""

import random

import pytest

from llm_jax.evals.squad import exact, f1

ANSWERS = {
    ("The Games Team <a@b.org>", "games team ab.org"): (1, 1),  # in small letters, without signs and articles
    ("a theatre", "theatre, an"): (1, 1),
    ("one two two", "two two three"): (0, 2 / 3),  # words count as often as they stand there
    ("one", "two"): (0, 0),
    ("", ""): (1, 1),
    ("the", ""): (1, 1),
    ("x", ""): (0, 0),
    ("", "x"): (0, 0),
}


@pytest.mark.parametrize("pair", ANSWERS)
def test_answers_are_compared_by_their_words(pair):
    assert (exact(*pair), f1(*pair)) == pytest.approx(ANSWERS[pair])


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_scores_are_those_of_torchmetrics():
    from torchmetrics.functional.text import squad

    draw = random.Random(0)
    parts = ["The", "an", "a", "1.2-3", "x@y.z", "Ärger", "über", "-", "'tis", "cat", "Cat's", "  ", "\n", "a.b"]
    for _ in range(500):
        said, right = (" ".join(draw.choices(parts, k=draw.randrange(5))) for _ in range(2))
        theirs = squad(
            [{"prediction_text": said, "id": "0"}], [{"answers": {"text": [right], "answer_start": [0]}, "id": "0"}]
        )
        wanted = [theirs["exact_match"].item(), theirs["f1"].item()]
        assert [100 * exact(said, right), 100 * f1(said, right)] == pytest.approx(wanted, rel=1e-6), (said, right)
