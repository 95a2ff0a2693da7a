"""classification_scores against counting by hand and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score

from suzoo.evaluation import classification_scores


def slow_f1(predicted, labels, c: int) -> float:
    both = sum(p == c and y == c for p, y in zip(predicted, labels, strict=True))
    return 2 * both / (sum(p == c for p in predicted) + sum(y == c for y in labels))


def test_one_class_per_row():
    labels, predicted = [0, 0, 0, 1, 1, 3], [0, 0, 1, 1, 2, 0]
    scores = classification_scores(np.array(predicted), np.array(labels), train_counts=[500, 90, 5, 99])
    f1 = [slow_f1(predicted, labels, c) for c in range(4)]
    assert f1 == pytest.approx([4 / 6, 2 / 4, 0, 0])
    assert scores["accuracy"] == pytest.approx(3 / 6)
    assert scores["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert scores["macro_f1"] == pytest.approx((f1[0] + f1[1] + f1[3]) / 3)  # class 2 is not among the labels
    assert scores["tail_f1"] == pytest.approx((f1[1] + f1[3]) / 2)


def test_several_classes_per_row():
    labels = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0]])
    predicted = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    scores = classification_scores(predicted, labels, train_counts=[9, 999, 9])
    assert scores == pytest.approx({"accuracy": 1 / 3, "micro_f1": 4 / 6, "macro_f1": (1 + 2 / 3) / 2, "tail_f1": 1.0})


def test_scikit_learn_agrees():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 7, 200), rng.integers(0, 7, 200)
    scores = classification_scores(predicted, labels)
    assert scores["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    labels, predicted = rng.integers(0, 2, (50, 4)), rng.integers(0, 2, (50, 4))
    assert classification_scores(predicted, labels)["micro_f1"] == pytest.approx(
        f1_score(labels, predicted, average="micro")
    )


def test_no_tail_is_not_reported_and_bad_input_is_refused():
    assert "tail_f1" not in classification_scores(np.array([0, 1]), np.array([0, 1]), train_counts=[500, 500])
    with pytest.raises(ValueError, match="not \\(2,\\) and \\(3,\\)"):
        classification_scores(np.zeros(2, int), np.zeros(3, int))
    with pytest.raises(ValueError, match="no row has a class"):
        classification_scores(np.zeros((2, 3)), np.zeros((2, 3)))


def test_labels_of_true_and_false_are_two_classes():
    predicted, labels = np.array([True, True, False]), np.array([True, False, False])
    assert classification_scores(predicted, labels) == classification_scores(predicted.astype(int), labels.astype(int))
    hot = np.array([[True, False], [True, True]])
    assert classification_scores(hot, hot) == classification_scores(hot.astype(float), hot.astype(int))


@pytest.mark.parametrize(
    ("predicted", "labels", "message"),
    [
        ([0, 1], [1, -1], "labels must be class indices from 0 on, not -1"),
        ([0, -100], [1, 0], "predicted must be class indices from 0 on, not -100"),
        ([0.2, 0.9], [0, 1], "predicted must be class indices from 0 on, not 0.2"),
        ([[0.2, 0.9]], [[0, 1]], "predicted must be 0 and 1, not 0.2"),
        ([[0, 1]], [[0, 2]], "labels must be 0 and 1, not 2"),
        ([[0, 1]], [[0, -1]], "labels must be 0 and 1, not -1"),
        ([0.0, float("nan")], [0, 1], "predicted must be class indices from 0 on, not nan"),
    ],
)
def test_values_that_are_no_classes_are_refused(predicted, labels, message):
    for kind in (np.array, torch.tensor):
        with pytest.raises(ValueError, match=message):
            classification_scores(kind(predicted), kind(labels))


def test_train_counts_of_too_few_classes_are_refused():
    with pytest.raises(ValueError, match="train_counts has 1 classes, but there are 2"):
        classification_scores(np.array([0, 1]), np.array([0, 1]), train_counts=[5])
