"""Accuracy of a yes-or-no decision by a threshold on the score."""

from __future__ import annotations

import numpy as np
import torch

from suzoo.evaluation._arrays import Values, paired


def best_threshold(scores: Values, labels: Values) -> tuple[float, float]:
    """The highest accuracy that any threshold reaches, and that threshold. Find it on validation data.

    A pair counts as positive if its score is at least the threshold. All n + 1 ways to cut the sorted scores are tried;
    the threshold lies in the middle of the gap, and of equally good cuts it is the lowest. It is a number of the
    precision of the scores, so that float32 scores are cut alike when they are compared in float32.

    Args:
        scores: (n,)
        labels: (n,) of 0 and 1.

    Returns:
        (accuracy, threshold), for `accuracy_at`.

    Raises:
        ValueError: a label that is not 0 or 1; a score that is not finite; unequal lengths.

    Time O(n log n).
    """
    precision = _precision(scores)
    scores, labels = _binary(scores, labels)
    order = np.argsort(scores)
    scores, labels = scores[order], labels[order]
    # cut i puts i pairs below the threshold: right are the zeros among them and the ones above
    right = np.concatenate([[0], np.cumsum(1 - labels)]) + labels.sum() - np.concatenate([[0], np.cumsum(labels)])
    possible = np.concatenate([[True], scores[1:] > scores[:-1], [True]])  # equal scores cannot be cut apart
    cut = int(np.argmax(np.where(possible, right, -1)))
    if cut == 0:
        threshold = scores[0]
    elif cut == len(scores):
        top = torch.tensor(scores[-1], dtype=precision)
        threshold = torch.nextafter(top, torch.full_like(top, torch.inf))
    else:
        low, high = scores[cut - 1], scores[cut]
        middle = float(torch.tensor(low / 2 + high / 2, dtype=precision))
        threshold = middle if low < middle <= high else high  # neighbouring floats have no middle
    return float(right[cut] / len(scores)), float(threshold)


def _precision(scores: Values) -> torch.dtype:
    """In which the scores will be compared with a number: theirs; float64 for a list and for integers."""
    if isinstance(scores, torch.Tensor):
        return scores.dtype if scores.is_floating_point() else torch.float64
    return {"float16": torch.float16, "float32": torch.float32}.get(np.asarray(scores).dtype.name, torch.float64)


def accuracy_at(threshold: float, scores: Values, labels: Values) -> float:
    """Share of pairs that are on the right side: label 1 and score >= threshold, or label 0 and score below."""
    scores, labels = _binary(scores, labels)
    return float(((scores >= threshold) == (labels == 1)).mean())


def _binary(scores: Values, labels: Values) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = paired(scores, labels)
    wrong = (labels != 0) & (labels != 1)
    if wrong.any():
        raise ValueError(f"accuracy needs labels of 0 and 1, not {labels[wrong][0]:g}")
    return scores, labels
