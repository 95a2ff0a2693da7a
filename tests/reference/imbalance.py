"""The losses against class imbalance with plain probabilities."""

from __future__ import annotations

import torch
from torch import Tensor


def focal_loss_reference(logits: Tensor, labels: Tensor, *, gamma: float) -> Tensor:
    """(N,) from logits (N, C)."""
    p = logits.softmax(-1)[torch.arange(len(labels)), labels]
    return -((1 - p) ** gamma) * p.log()


def binary_focal_loss_reference(logits: Tensor, targets: Tensor, *, gamma: float, alpha: float) -> Tensor:
    """Elementwise."""
    p = logits.sigmoid()
    positive = -alpha * (1 - p) ** gamma * p.log()
    negative = -(1 - alpha) * p**gamma * (1 - p).log()
    return torch.where(targets > 0, positive, negative)


def soft_truncation_loss_reference(logits: Tensor, targets: Tensor, *, slope: float) -> Tensor:
    """Elementwise."""
    positive = -(-slope * logits).sigmoid() * logits.sigmoid().log()
    negative = -(slope * logits).sigmoid() * (-logits).sigmoid().log()
    return torch.where(targets > 0, positive, negative)


def smooth_f1_reference(logits: Tensor, targets: Tensor) -> Tensor:
    """2 E[y p] / E[y + p] over all elements."""
    p = logits.sigmoid()
    return 2 * (targets * p).sum() / (targets + p).sum()


def f1_weighted_bce_reference(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over all elements."""
    f1 = smooth_f1_reference(logits, targets).detach()
    p = logits.sigmoid()
    return -(targets * (1 - f1 / 2) * p.log() + (1 - targets) * f1 / 2 * (1 - p).log()).mean()


def logit_adjusted_reference(logits: Tensor, labels: Tensor, prior: Tensor, *, tau: float) -> Tensor:
    """(N,): log(1 + the sum over i of (prior_i / prior_y)^tau exp(f_i - f_y))."""
    rows = []
    for row, y in zip(logits, labels.tolist(), strict=True):
        total = sum((prior[i] / prior[y]) ** tau * (row[i] - row[y]).exp() for i in range(len(row)) if i != y)
        rows.append((1 + total).log())
    return torch.stack(rows)
