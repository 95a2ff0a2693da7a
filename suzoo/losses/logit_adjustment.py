"""Class imbalance through the prior: logit adjustment before the softmax, class-balanced weights after it.

Sources: Su, "通过互信息思想来缓解类别不平衡问题", kexue.fm/archives/7615; logit adjustment, arXiv 2007.07314;
class-balanced weights, arXiv 1901.05555. Shapes: (...) rows, C classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from suzoo.losses._common import Reduction, check_class_labels, reduce_loss, target_nll, upcast_kept


def class_log_prior(counts: Tensor, *, smoothing: float = 1.0) -> Tensor:
    """(C,) float32 log of (n + s) / (N + s C) from the counts n (C,) of the training set.

    Raises:
        ValueError: counts are not (C,), negative, or a class has count 0 without smoothing: a prior of 0 could never be
            learnt or predicted.
    """
    counts = _check_counts("class_log_prior", counts) + smoothing
    if not bool((counts > 0).all()):
        raise ValueError("class_log_prior: a class has count 0; use smoothing > 0 or drop the class")
    return (counts.log() - counts.sum().log()).float()


def logit_adjusted_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    log_prior: Tensor,
    *,
    tau: float = 1.0,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    num_items: int | Tensor | None = None,
) -> Tensor:
    """Cross-entropy of `logits + tau * log_prior`: the logits learn what the input says beyond the prior.

    Afterwards `logits.argmax(-1)` aims at balanced accuracy and `(logits + tau * log_prior).argmax(-1)` at plain
    accuracy. Post hoc, for a model trained with plain cross-entropy, balanced accuracy is
    `(logits - tau * log_prior).argmax(-1)`.

    Args:
        logits: (..., C). labels: (...) class indices.
        log_prior: (C,), see `class_log_prior`.
        tau: 0 is plain cross-entropy, 1 near-optimal in the paper.
        reduction, ignore_index, num_items: as in `cross_entropy_loss`.

    Raises:
        ValueError: shapes do not fit.
    """
    check_class_labels("logit_adjusted_cross_entropy", logits, labels)
    if log_prior.shape != logits.shape[-1:]:
        raise ValueError(
            f"logit_adjusted_cross_entropy: log_prior must be ({logits.shape[-1]},), not {(*log_prior.shape,)}"
        )
    adjusted = upcast_kept(logits, labels, ignore_index) + tau * log_prior
    return reduce_loss(target_nll(adjusted, labels, ignore_index), labels != ignore_index, reduction, num_items)


def class_balanced_weights(counts: Tensor, *, beta: float = 0.999) -> Tensor:
    """(C,) float32 weights (1 - β) / (1 - β^n), scaled to sum to C: for `F.cross_entropy(weight=...)`.

    β = 0 weights all classes alike, β -> 1 by inverse frequency; the paper tries 0.9, 0.99, 0.999 and 0.9999. Note that
    torch's mean divides by the sum of the weights used, not by the number of rows.

    Raises:
        ValueError: counts are not (C,), a count is 0, or beta is outside [0, 1).
    """
    if not 0 <= beta < 1:
        raise ValueError(f"class_balanced_weights: beta must be in [0, 1), not {beta}")
    counts = _check_counts("class_balanced_weights", counts)
    if bool((counts == 0).any()):
        raise ValueError("class_balanced_weights: a class has count 0, its weight would be infinite; drop the class")
    # expm1 in float64: 1 - 0.9999^10 has lost three digits in float32
    weights = torch.ones_like(counts) if beta == 0 else -1 / (counts * math.log(beta)).expm1()
    return (weights * len(weights) / weights.sum()).float()


def _check_counts(name: str, counts: Tensor) -> Tensor:
    if counts.dim() != 1 or bool((counts < 0).any()):
        raise ValueError(f"{name} takes counts (C,) of at least 0, not shape {(*counts.shape,)}")
    return counts.double()
