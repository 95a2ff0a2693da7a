"""Correlation of scores with graded labels, as sentence similarity is judged."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

from suzoo.evaluation._arrays import Values, paired


def spearman(scores: Values, labels: Values) -> float:
    """Rank correlation in [-1, 1]; equal values share the mean of their ranks. The number the blog's tables show ×100.

    Args:
        scores: (n,) one per pair.
        labels: (n,) grades.

    Returns:
        The correlation; 0.0 if all scores are equal (a collapsed model knows nothing of the order), where the formula
        says 0/0.

    Raises:
        ValueError: all labels are equal or there is only one, so that no score could be right; a value is not finite;
            unequal lengths.
    """
    return _correlation(stats.spearmanr, scores, labels)


def pearson(scores: Values, labels: Values) -> float:
    """Linear correlation in [-1, 1]; arguments, constant input and errors as for `spearman`."""
    return _correlation(stats.pearsonr, scores, labels)


def _correlation(function: Callable, scores: Values, labels: Values) -> float:
    scores, labels = paired(scores, labels)
    if np.ptp(labels) == 0:
        raise ValueError(f"all {len(labels)} labels are {labels[0]:g}: correlation needs labels that differ")
    return 0.0 if np.ptp(scores) == 0 else float(function(scores, labels).statistic)
