"""Sentence-level scores of spelling correction."""

from __future__ import annotations

import pytest

from suzoo.evaluation import spelling_scores


def test_scores_of_each_kind_of_sentence():
    rows = [
        # source, prediction, target
        ("坐天去了", "昨天去了", "昨天去了"),  # corrected
        ("坐天去了", "做天去了", "昨天去了"),  # detected, corrected wrongly
        ("坐天去了", "昨天走了", "昨天去了"),  # corrected what was right, too
        ("坐天去了", "坐天去了", "昨天去了"),  # missed
        ("昨天去了", "昨天走了", "昨天去了"),  # false alarm
        ("昨天去了", "昨天去了", "昨天去了"),  # left alone
        ("坐天去了", "昨天去了了", "昨天去了"),  # of another length
    ]
    scores = spelling_scores(*zip(*rows, strict=True))
    assert scores == pytest.approx(
        {
            "detection_precision": 2 / 5,
            "detection_recall": 2 / 5,
            "detection_f1": 2 / 5,
            "correction_precision": 1 / 5,
            "correction_recall": 1 / 5,
            "correction_f1": 1 / 5,
            "false_alarm": 1 / 2,
        }
    )


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    scores = spelling_scores(["a", "a", "a", "a"], ["b", "b", "a", "a"], ["b", "c", "b", "b"])
    precision, recall = scores["correction_precision"], scores["correction_recall"]
    assert (precision, recall) == (1 / 2, 1 / 4)
    assert scores["correction_f1"] == pytest.approx(2 * precision * recall / (precision + recall))


def test_leaving_everything_alone_scores_zero_and_no_false_alarm():
    assert set(spelling_scores(["坐天", "昨天"], ["坐天", "昨天"], ["昨天", "昨天"]).values()) == {0.0}
    assert spelling_scores(["昨天"], ["昨天"], ["昨天"])["correction_f1"] == 0.0


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="not 1 and 1 for 2"):
        spelling_scores(["a", "b"], ["a"], ["a"])
    with pytest.raises(ValueError, match="one at least"):
        spelling_scores([], [], [])
    with pytest.raises(ValueError, match="target 0 has 3 characters, its source 2"):
        spelling_scores(["ab"], ["ab"], ["abc"])
