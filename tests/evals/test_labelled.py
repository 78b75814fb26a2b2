"""Precision, recall, F1, confusion and correlations: hand arithmetic, and scikit-learn and scipy beside them."""

import math

import numpy as np
import pytest

from llm_jax.evals.labelled import classes, confusion, correlation, per_class, ranks, regression, table

LABELS = ("cat", "dog", "eel")
RIGHT, SAID = [0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 0]


def rows(right, said, weights=None, nats=0.5):
    """Batches of texts as `texts` gives them: two of a batch, the last padded with a row of no weight."""
    weights = np.ones(len(right)) if weights is None else weights
    each = np.stack([np.full(len(right), nats), weights, right, said], axis=-1)[:, None]
    each = np.concatenate([each, np.array([[[9.0, 0.0, 2.0, 2.0]]])])
    return [each[i : i + 2] for i in range(0, len(each), 2)]


def judged(right, said, labels=LABELS, **more):
    return classes(labels, lambda batch: batch, rows(right, said, **more))


def test_of_six_texts_the_arithmetic_by_hand():
    found = judged(RIGHT, SAID)
    values = {name: e.value for name, e in found.items()}
    assert values["loss"] == 0.5 and values["accuracy"] == 5 / 6 and found["accuracy"].count == 6
    assert values["precision/cat"] == 1 and values["recall/cat"] == pytest.approx(2 / 3)
    assert values["precision/dog"] == 3 / 4 and values["recall/dog"] == 1 and values["f1/cat"] == pytest.approx(0.8)
    assert values["f1"] == pytest.approx((0.8 + 6 / 7) / 2)  # no eel occurs: macro means are over two classes
    assert values["f1/eel"] == values["support/eel"] == 0 and values["support/dog"] == 3
    assert values["confusion/cat/dog"] == 1 and values["confusion/dog/dog"] == 3 and "confusion/eel/eel" not in values
    assert found["accuracy"].error == pytest.approx(math.sqrt(6 / 5 * (25 / 36 + 5 / 36) / 36))
    assert math.isnan(found["f1"].error)


def test_tokens_without_weight_do_not_count_and_rows_are_the_unit_of_the_error():
    tokens = np.zeros((2, 3, 4))
    tokens[0] = [[1, 1, 0, 0], [2, 1, 1, 0], [7, 0, 2, 2]]
    tokens[1] = [[3, 1, 2, 2], [7, 0, 1, 1], [7, 0, 1, 1]]
    found = classes(LABELS, lambda batch: batch, [tokens])
    assert found["loss"].value == 2 and found["loss"].count == 3
    assert found["accuracy"].value == pytest.approx(2 / 3) and found["support/eel"].value == 1


def test_a_table_has_a_line_a_class_and_what_it_was_taken_for():
    text = table(judged(RIGHT, SAID), LABELS)
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["precision", "recall", "f1", "support"]
    assert lines[1] == ["cat", "1.0000", "0.6667", "0.8000", "3"]
    assert lines[4] == ["macro", "mean", "0.8750", "0.8333", "0.8286", "6"]
    assert lines[-3:] == [["cat", "2", "1", "0"], ["dog", "0", "3", "0"], ["eel", "0", "0", "0"]]
    many = tuple(f"class {i}" for i in range(30))
    text = table(judged([0, 0, 4, 5], [3, 3, 4, 6], many), many)
    assert [line.split() for line in text.splitlines()[-2:]] == [
        ["class", "0", "class", "3", "2"], ["class", "5", "class", "6", "1"],
    ]  # fmt: skip


def test_equal_values_share_the_mean_of_their_ranks_and_what_never_varies_has_no_correlation():
    np.testing.assert_array_equal(ranks(np.array([3.0, 1.0, 3.0, 2.0])), [3.5, 1.0, 3.5, 2.0])
    assert correlation(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0])) == pytest.approx(1.0)
    assert math.isnan(correlation(np.ones(3), np.array([1.0, 2.0, 3.0])))


def test_a_regression_has_its_squared_error_and_its_correlations():
    right, said = np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 8.0])
    square = np.array([0.0, 1.0, 16.0, 5.0])
    each = np.stack([square, [1, 1, 1, 0], [*right, 50], [*said, -50]], axis=-1)[:, None]
    found = regression(lambda batch: batch, [each])
    assert found["loss"].value == pytest.approx(17 / 3) and found["spearman"].value == pytest.approx(1.0)
    assert found["pearson"].value == pytest.approx(np.corrcoef(right, said)[0, 1]) and found["loss"].count == 3


@pytest.mark.oracle
def test_they_are_those_of_scikit_learn_and_scipy():
    from scipy import stats
    from sklearn import metrics

    rng = np.random.default_rng(0)
    right, said = rng.integers(0, 5, (2, 200))
    said[right == 3] = 4  # never said, and one that is never right
    right[right == 2] = 1
    labels = [str(i) for i in range(6)]
    found = judged(right, said, labels)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        right, said, labels=range(6), zero_division=0
    )
    for i, label in enumerate(labels):
        assert found[f"precision/{label}"].value == pytest.approx(precision[i])
        assert found[f"recall/{label}"].value == pytest.approx(recall[i])
        assert found[f"f1/{label}"].value == pytest.approx(f1[i]) and found[f"support/{label}"].value == support[i]
    macro = metrics.precision_recall_fscore_support(right, said, average="macro", zero_division=0)
    assert [found[n].value for n in ("precision", "recall", "f1")] == pytest.approx(list(macro[:3]))
    assert found["accuracy"].value == metrics.accuracy_score(right, said)
    np.testing.assert_array_equal(confusion(right, said, 6), metrics.confusion_matrix(right, said, labels=range(6)))
    assert per_class(confusion(right, said, 6))["f1"] == pytest.approx(f1)
    x, y = np.round(rng.normal(size=(2, 50)), 1)
    assert correlation(x, y) == pytest.approx(stats.pearsonr(x, y).statistic)
    assert correlation(ranks(x), ranks(y)) == pytest.approx(stats.spearmanr(x, y).statistic)
