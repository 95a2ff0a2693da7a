"""R-Drop of the paper, from probabilities, one row at a time."""

from __future__ import annotations

import torch
from torch import Tensor


def symmetric_kl_reference(logits_a: Tensor, logits_b: Tensor) -> Tensor:
    """(N,) KL(a||b) + KL(b||a) from logits (N, C)."""
    p, q = logits_a.softmax(-1), logits_b.softmax(-1)
    return (p * (p / q).log()).sum(-1) + (q * (q / p).log()).sum(-1)


def rdrop_loss_reference(logits_a: Tensor, logits_b: Tensor, labels: Tensor, *, alpha: float) -> Tensor:
    """(N,) in the convention of the paper: CE1 + CE2 + alpha * half the symmetric divergence."""
    rows = torch.arange(len(labels))
    nll = -logits_a.log_softmax(-1)[rows, labels] - logits_b.log_softmax(-1)[rows, labels]
    return nll + alpha / 2 * symmetric_kl_reference(logits_a, logits_b)
