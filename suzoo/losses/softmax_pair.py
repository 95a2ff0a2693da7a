"""Sentence-BERT's training objective: a classifier over [u; v; |u - v|] that is thrown away after training.

Source: Reimers & Gurevych, "Sentence-BERT" (1908.10084); the baseline of kexue.fm/archives/8847. P pairs, D dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suzoo.losses._common import upcast


class SoftmaxPairLoss(nn.Module):
    """Cross-entropy of a linear classifier over [u; v; |u - v|]; at inference the vectors are compared by cosine, which
    the objective never saw. It needs classes, so grades must be cut (the article cuts STS-B at label > 2.5).

    Args:
        embedding_size: D.
        num_classes: at least 2.
    """

    def __init__(self, embedding_size: int, num_classes: int = 2):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes={num_classes}: a classifier needs at least 2")
        self.classifier = nn.Linear(3 * embedding_size, num_classes)

    def logits(self, u_PD: Tensor, v_PD: Tensor) -> Tensor:
        """(P, num_classes), float32 at least."""
        features = torch.cat([u_PD, v_PD, (u_PD - v_PD).abs()], dim=-1)
        with torch.autocast(features.device.type, enabled=False):  # it would multiply in low precision
            return upcast(self.classifier(features.to(self.classifier.weight.dtype)))

    def forward(self, u_PD: Tensor, v_PD: Tensor, classes: Tensor) -> Tensor:
        """Mean cross-entropy (scalar, float32 at least) for integer `classes` (P,) in [0, num_classes)."""
        return F.cross_entropy(self.logits(u_PD, v_PD), classes)
