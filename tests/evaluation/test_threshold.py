"""The best threshold against trying every one."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from suzoo.evaluation import accuracy_at, best_threshold
from tests.reference import evaluation as reference


@pytest.mark.parametrize("num_scores", [3, 1000])  # many ties, few ties
@pytest.mark.parametrize("n", [1, 2, 5, 31])
def test_best_threshold_is_as_good_as_any_and_gives_the_accuracy_it_promises(n, num_scores):
    for seed in range(20):
        rng = random.Random(seed)
        scores = [rng.randrange(num_scores) / 7 for _ in range(n)]
        labels = [rng.randrange(2) for _ in range(n)]
        accuracy, threshold = best_threshold(scores, labels)
        assert type(accuracy) is type(threshold) is float
        assert accuracy == pytest.approx(reference.best_accuracy(scores, labels))
        assert accuracy == pytest.approx(reference.accuracy_at(threshold, scores, labels))
        assert accuracy == accuracy_at(threshold, scores, labels)


def test_best_threshold_lies_in_the_middle_of_the_gap():
    assert best_threshold([0.2, 0.9, 0.4, 1.0], [0, 1, 0, 1]) == (1.0, pytest.approx(0.65))


def test_best_threshold_of_one_class_only():
    accuracy, threshold = best_threshold([0.3, 0.1], [1, 1])
    assert (accuracy, threshold) == (1.0, 0.1)
    accuracy, threshold = best_threshold([0.3, 0.1], [0, 0])
    assert accuracy == 1.0 and np.isfinite(threshold) and threshold > 0.3


def test_best_threshold_between_neighbouring_floats_and_huge_ones():
    low = 1.0
    high = float(np.nextafter(low, 2))
    accuracy, threshold = best_threshold([low, high], [0, 1])
    assert accuracy == accuracy_at(threshold, [low, high], [0, 1]) == 1.0
    assert best_threshold([-1e308, 1.7e308], [0, 1])[0] == 1.0


def test_best_threshold_agrees_with_sentence_transformers():
    from sentence_transformers.sentence_transformer.evaluation import BinaryClassificationEvaluator

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    scores = labels + rng.normal(size=200)
    accuracy, threshold = BinaryClassificationEvaluator.find_best_acc_and_threshold(scores, labels, True)
    assert best_threshold(scores, labels) == (pytest.approx(accuracy), pytest.approx(threshold))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("labels", "accuracy"), [([1, 0, 0, 0], 0.75), ([0, 0, 0, 1], 1.0), ([0, 0, 1, 0], 0.75)])
def test_the_threshold_cuts_in_the_precision_of_the_scores(dtype, labels, accuracy):
    """A float64 number one step above the highest float32 score would be that score again."""
    for values in (
        [0.1, 0.2, 0.3, 0.9],
        [0.1, 0.2, 0.3, float(torch.tensor(0.3, dtype=dtype).nextafter(torch.ones((), dtype=dtype)))],
    ):
        scores = torch.tensor(values, dtype=dtype)
        found, threshold = best_threshold(scores, labels)
        assert found == accuracy == ((scores >= threshold).int() == torch.tensor(labels)).double().mean()
        if dtype != torch.bfloat16:
            array = scores.numpy()
            assert best_threshold(array, labels) == best_threshold([*array], labels) == (found, threshold)
            assert ((array >= threshold) == np.array(labels)).mean() == accuracy


def test_labels_that_are_not_binary_are_refused():
    with pytest.raises(ValueError, match="labels of 0 and 1, not 2"):
        best_threshold([0.1, 0.2], [0, 2])
    with pytest.raises(ValueError, match="finite"):
        best_threshold([0.1, float("inf")], [0, 1])
