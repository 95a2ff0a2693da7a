"""Multi-label softmax cross-entropy as the two sums of kexue.fm/archives/7359 and 9064, class by class."""

from __future__ import annotations

import torch
from torch import Tensor


def multilabel_cross_entropy_reference(scores: Tensor, targets: Tensor, *, threshold: float = 0.0) -> Tensor:
    """(B,) from scores and targets (B, C)."""
    rows = []
    for score_row, target_row in zip(scores, targets.to(scores.dtype), strict=True):
        negative = torch.exp(scores.new_tensor(threshold))
        positive = torch.exp(scores.new_tensor(-threshold))
        for score, target in zip(score_row, target_row, strict=True):
            negative = negative + (1 - target) * score.exp()
            positive = positive + target * (-score).exp()
        rows.append(negative.log() + positive.log())
    return torch.stack(rows)
