"""Losses that stop training on what is right already: hard truncation, its soft form, and focal loss.

Sources: Su, "从loss的硬截断、软化到focal loss", kexue.fm/archives/4733; focal loss, arXiv 1708.02002.
Shapes: (...) rows, C classes; the binary losses are elementwise.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from suzoo.losses._common import (
    Reduction,
    binary_margin,
    check_class_labels,
    check_options,
    reduce_loss,
    safe_target,
    target_nll,
    upcast_finite,
)


def focal_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 2.0,
    detach_weight: bool = False,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    num_items: int | Tensor | None = None,
) -> Tensor:
    """Softmax focal loss: -(1 - p)^γ log p of the target. γ = 0 is cross-entropy.

    Args:
        logits: (..., C). labels: (...) class indices.
        gamma: γ >= 0.
        detach_weight: do not differentiate (1 - p)^γ. The article wants it differentiated: a constant weight gives no
            reason to stay right.
        reduction, ignore_index, num_items: as in `cross_entropy_loss`.

    Raises:
        ValueError: shapes do not fit, or gamma < 0.
    """
    check_class_labels("focal_loss", logits, labels)
    check_options("focal_loss", gamma=gamma)
    logits = upcast_finite(logits)
    nll = target_nll(logits, labels, ignore_index)
    # log(1 - p) as the log-sum of the others: 1 - p itself is 0 in float32 long before the weight is
    others = logits.scatter(-1, safe_target(labels, ignore_index), -1e30)
    log_rest = others.logsumexp(-1) - logits.logsumexp(-1)
    weight = (gamma * log_rest).exp()
    losses = (weight.detach() if detach_weight else weight) * nll
    return reduce_loss(losses, labels != ignore_index, reduction, num_items)


def binary_focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
    detach_weight: bool = False,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    num_items: int | Tensor | None = None,
) -> Tensor:
    """Sigmoid focal loss, elementwise: -(1 - p)^γ log p, p the probability of the right side.

    Args:
        logits: (...), targets: (...) 0, 1 or `ignore_index`.
        gamma: γ >= 0; at 1 it is `soft_truncation_loss(slope=1)`.
        alpha: weight of the positives, 1 - alpha of the negatives; None weights both by 1. Detectors use 0.25.
        detach_weight, reduction: as in `focal_loss`.
        num_items: divisor of the mean; detectors divide by the number of positives. 0 counts as 1.

    Raises:
        ValueError: shapes differ, gamma < 0, alpha is outside [0, 1], or a target is neither 0, 1 nor `ignore_index`.
            On an accelerator and under `torch.compile` a look would wait or break the graph: there the loss of such a
            target is NaN.
    """
    check_options("binary_focal_loss", gamma=gamma)
    if alpha is not None:
        check_options("binary_focal_loss", most=1, alpha=alpha)
    margin, positive = binary_margin("binary_focal_loss", logits, targets, ignore_index)
    weight = (gamma * F.logsigmoid(-margin)).exp()  # the power of a sigmoid has a NaN gradient where it is 0
    losses = (weight.detach() if detach_weight else weight) * -F.logsigmoid(margin)
    if alpha is not None:
        losses = losses * torch.where(positive, alpha, 1 - alpha)
    return reduce_loss(losses, targets != ignore_index, reduction, num_items)


def soft_truncation_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    slope: float = 2.0,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    num_items: int | Tensor | None = None,
) -> Tensor:
    """-σ(-K x) log σ(x), x the logit towards the right side: cross-entropy that fades out once p passes 1/2.

    Args:
        logits: (...), targets: (...) 0, 1 or `ignore_index`.
        slope: K > 0. `math.inf` is the hard truncation it softens: no loss at all on the right side, so nothing keeps
            the model there, and training is slow.
        reduction, ignore_index, num_items: as in `cross_entropy_loss`.

    Raises:
        ValueError: shapes differ, slope <= 0, or a target as in `binary_focal_loss`.
    """
    if not slope > 0:
        raise ValueError(f"soft_truncation_loss: slope must be positive, not {slope}")
    margin, _ = binary_margin("soft_truncation_loss", logits, targets, ignore_index)
    weight = (margin <= 0).to(margin.dtype) if math.isinf(slope) else F.sigmoid(-slope * margin)
    return reduce_loss(-weight * F.logsigmoid(margin), targets != ignore_index, reduction, num_items)
