"""Spearman and Pearson against their definitions."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from suzoo.evaluation import pearson, spearman
from tests.reference import evaluation as reference


@pytest.mark.parametrize("name", ["spearman", "pearson"])
@pytest.mark.parametrize("n", [2, 3, 7, 50])
def test_correlation_equals_its_definition_with_ties(name, n):
    rng = random.Random(n)
    scores = [float(rng.randrange(6)) for _ in range(n - 1)] + [6.0]
    labels = [float(rng.randrange(3)) for _ in range(n - 1)] + [3.0]
    value = {"spearman": spearman, "pearson": pearson}[name](scores, labels)
    assert type(value) is float
    assert value == pytest.approx(getattr(reference, name)(scores, labels), abs=1e-12)


def test_spearman_sees_only_the_order():
    scores, labels = torch.rand(40, dtype=torch.float64), torch.randint(0, 6, (40,))
    assert spearman(scores, labels) == pytest.approx(spearman(scores.exp(), labels.double() ** 3), abs=1e-12)
    assert spearman(scores, -labels) == pytest.approx(-spearman(scores, labels), abs=1e-12)
    assert spearman(labels.double() * 7 - 2, labels) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("function", [spearman, pearson])
def test_a_model_that_scores_everything_alike_gets_zero_and_equal_labels_are_refused(function):
    assert function([0.5, 0.5, 0.5], [0, 1, 2]) == 0.0
    with pytest.raises(ValueError, match="all 3 labels are 2"):
        function([0.1, 0.2, 0.3], [2, 2, 2])
    with pytest.raises(ValueError, match="all 1 labels"):
        function([0.1], [1])


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1, float("nan")], [0, 1], "scores must be finite, but at position 1 it is nan"),
        ([0.1, 0.2], [0, float("inf")], "labels must be finite"),
        ([0.1, 0.2], [0, 1, 2], "one length above 0, not 2 and 3"),
        ([], [], "one length above 0"),
        ([[0.1], [0.2]], [0, 1], "scores must be one-dimensional"),
    ],
)
def test_what_cannot_be_correlated_is_refused(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        spearman(scores, labels)


def test_lists_arrays_and_tensors_of_any_dtype_give_the_same():
    scores = [0.25, 0.5, -1.0, 0.75]
    labels = [1, 2, 0, 5]
    expected = pearson(scores, labels)
    for convert in (np.array, np.float32, torch.tensor, lambda s: torch.tensor(s).bfloat16().requires_grad_()):
        assert pearson(convert(scores), labels) == pytest.approx(expected, abs=1e-12)
