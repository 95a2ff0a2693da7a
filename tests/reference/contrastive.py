"""Contrastive losses as loops over rows and candidates."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _mean_nll(rows: list[tuple[Tensor, list[Tensor]]]) -> Tensor:
    """Mean of -log(e^p / (e^p + sum e^n)) over (positive, negatives)."""
    return torch.stack([torch.stack([p, *n]).logsumexp(0) - p for p, n in rows]).mean()


def contrastive_loss_reference(
    anchors: Tensor, positives: Tensor, *, scale: float, negatives: str, hard: Tensor | None = None, ids=None
) -> Tensor:
    """anchors, positives (B, D); hard (B, K, D); ids a list of B."""
    a, p = F.normalize(anchors, dim=-1), F.normalize(positives, dim=-1)
    size = len(a)
    ids = list(range(size)) if ids is None else ids
    extra = [] if hard is None else list(F.normalize(hard, dim=-1).flatten(0, 1))
    rows = []
    for i in range(size):
        others = [j for j in range(size) if ids[j] != ids[i]]
        if negatives == "cross":
            rows.append((scale * a[i] @ p[i], [scale * a[i] @ v for v in [*(p[j] for j in others), *extra]]))
        else:
            for me, mate in ((a[i], p[i]), (p[i], a[i])):
                candidates = [*(a[j] for j in others), *(p[j] for j in others), *extra]
                rows.append((scale * me @ mate, [scale * me @ v for v in candidates]))
    return _mean_nll(rows)


def supcon_loss_reference(embeddings: Tensor, labels: Tensor, *, scale: float) -> Tensor:
    """embeddings (B, D), labels (B,)."""
    z = F.normalize(embeddings, dim=-1)
    anchors = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        mates = [j for j in others if labels[j] == labels[i]]
        if mates:
            log_sum = torch.stack([scale * z[i] @ z[j] for j in others]).logsumexp(0)
            anchors.append(torch.stack([log_sum - scale * z[i] @ z[j] for j in mates]).mean())
    return torch.stack(anchors).mean()
