"""TaiLr and its closed form with probabilities instead of logarithms."""

from __future__ import annotations

import torch
from torch import Tensor


def tailr_loss_reference(logits: Tensor, labels: Tensor, *, gamma: float, min_weight: float = 0.0) -> Tensor:
    """(N,) from logits (N, C)."""
    p = logits.softmax(-1)[torch.arange(len(labels)), labels]
    weight = (p / (gamma + (1 - gamma) * p)).clamp(min_weight, 1).detach()
    return -weight * p.log()


def gamma_cross_entropy_reference(logits: Tensor, labels: Tensor, *, gamma: float) -> Tensor:
    """(N,) from logits (N, C), gamma < 1."""
    p = logits.softmax(-1)[torch.arange(len(labels)), labels]
    return -(gamma + (1 - gamma) * p).log() / (1 - gamma)
