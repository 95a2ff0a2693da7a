"""How well classes were predicted, on the whole and on the rare ones. Shapes: N rows, C classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

Labels = np.ndarray | Tensor


def classification_scores(
    predicted: Labels, labels: Labels, *, train_counts: Sequence[int] | None = None, tail_below: int = 100
) -> dict[str, float]:
    """Accuracy and F1 of predicted classes.

    The macro scores are means over the classes that occur in `labels`, so that every one of them counts alike. The F1
    of a class that is never predicted is 0.

    Args:
        predicted, labels: (N,) class indices, or (N, C) of 0 and 1 where a row may have several classes or none. Leave
            out the rows without a label.
        train_counts: (C,) rows of each class in the training data; with it, `tail_f1` is reported.
        tail_below: classes with fewer training rows than this are the tail.

    Returns:
        `accuracy` (with several classes: all of a row right), `macro_f1`, `micro_f1` where a row may have several
        classes, else `balanced_accuracy` (the mean recall of the classes); `tail_f1`, the macro F1 over the tail, where
        there is one.

    Raises:
        ValueError: shapes differ, no row, no class in `labels`, or values that are no classes, as -1 and probabilities.
    """
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    if predicted.shape != labels.shape or labels.ndim not in (1, 2) or not len(labels):
        raise ValueError(
            f"classification_scores takes predicted and labels (N,) or (N, C), not {predicted.shape} and {labels.shape}"
        )
    several = labels.ndim == 2
    predicted, labels = (_classes(name, v, several) for name, v in (("predicted", predicted), ("labels", labels)))
    scores = {"accuracy": float((predicted == labels).reshape(len(labels), -1).all(1).mean())}
    if not several:
        num_classes = 1 + int(max(predicted.max(), labels.max()))
        predicted, labels = np.eye(num_classes)[predicted], np.eye(num_classes)[labels]
    hits_C = (predicted * labels).sum(0)
    mass_C = predicted.sum(0) + labels.sum(0)
    found_C = labels.sum(0) > 0
    if not found_C.any():
        raise ValueError("classification_scores: no row has a class")
    f1_C = 2 * hits_C / np.maximum(mass_C, 1)
    if several:
        scores["micro_f1"] = float(2 * hits_C.sum() / mass_C.sum())
    else:
        scores["balanced_accuracy"] = float((hits_C[found_C] / labels.sum(0)[found_C]).mean())
    scores["macro_f1"] = float(f1_C[found_C].mean())
    if train_counts is not None:
        if len(train_counts) < len(found_C):
            raise ValueError(
                f"classification_scores: train_counts has {len(train_counts)} classes, but there are {len(found_C)}"
            )
        tail_C = found_C & (np.asarray(train_counts)[: len(found_C)] < tail_below)
        if tail_C.any():
            scores["tail_f1"] = float(f1_C[tail_C].mean())
    return scores


def _classes(name: str, values: np.ndarray, several: bool) -> np.ndarray:
    """As integers: an index of -1 would be the last class, and True and False a choice of rows."""
    if values.dtype == bool:
        return values.astype(np.int64)
    wrong = ~((values >= 0) & (values <= (1 if several else 2**53)) & (np.floor(values) == values))
    if wrong.any():
        expected = "0 and 1" if several else "class indices from 0 on"
        raise ValueError(f"classification_scores: {name} must be {expected}, not {values[wrong][0]:g}")
    return values.astype(np.int64)
