"""CoSENT as it is written in kexue.fm/archives/8847: every ordered couple of pairs, one by one."""

from __future__ import annotations

import torch
from torch import Tensor


def cosent_loss_reference(scores: Tensor, labels: Tensor, *, scale: float = 20.0) -> Tensor:
    """scores and labels (P,). log(1 + the sum over label a > label b of exp(scale * (score b - score a)))."""
    terms = [scores.sum() * 0]
    for a in range(len(scores)):
        for b in range(len(scores)):
            if labels[a] > labels[b]:
                terms.append(scale * (scores[b] - scores[a]))
    return torch.stack(terms).logsumexp(0)
