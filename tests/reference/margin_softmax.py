"""AM-Softmax and ArcFace row by row, ArcFace with the angle itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _cross_entropy(logits: Tensor, label: int) -> Tensor:
    return logits.exp().sum().log() - logits[label]


def am_softmax_loss_reference(cosines: Tensor, labels: Tensor, *, scale: float, margin: float) -> Tensor:
    """(B,) from cosines (B, C)."""
    rows = []
    for row, label in zip(cosines, labels.tolist(), strict=True):
        shifted = [scale * (c - margin) if i == label else scale * c for i, c in enumerate(row)]
        rows.append(_cross_entropy(torch.stack(shifted), label))
    return torch.stack(rows)


def arcface_loss_reference(cosines: Tensor, labels: Tensor, *, scale: float, margin: float) -> Tensor:
    """(B,) from cosines (B, C)."""
    rows = []
    for row, label in zip(cosines, labels.tolist(), strict=True):
        angle = row[label].arccos()
        turned = (angle + margin).cos() if angle + margin < math.pi else row[label] - margin * math.sin(margin)
        rows.append(
            _cross_entropy(scale * torch.stack([turned if i == label else c for i, c in enumerate(row)]), label)
        )
    return torch.stack(rows)
