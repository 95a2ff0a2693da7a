"""Scores and labels of any kind as float64 arrays, checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

Values = Sequence[float] | np.ndarray | torch.Tensor


def as_array(values: Values, name: str) -> np.ndarray:
    """(n,) float64 from a list, an array or a tensor of any dtype and device. NaN and infinity are refused."""
    if isinstance(values, torch.Tensor):
        values = values.detach().double().cpu().numpy()
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, not {array.shape}")
    if not np.isfinite(array).all():
        position = int(np.argmin(np.isfinite(array)))
        raise ValueError(f"{name} must be finite, but at position {position} it is {array[position]}")
    return array


def paired(scores: Values, labels: Values) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels of equal length, one or more."""
    scores, labels = as_array(scores, "scores"), as_array(labels, "labels")
    if len(scores) != len(labels) or not len(scores):
        raise ValueError(f"scores and labels must be of one length above 0, not {len(scores)} and {len(labels)}")
    return scores, labels
