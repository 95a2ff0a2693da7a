"""Softmax cross-entropy for several labels at once (ZLPR), dense, soft and sparse.

Source: Su, "将softmax+交叉熵推广到多标签分类问题", kexue.fm/archives/7359; soft labels: kexue.fm/archives/9064;
arXiv 2208.02955. Shapes: C classes, K label slots.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from suzoo.losses._common import Reduction, can_look, check_targets, reduce_loss, upcast


def multilabel_cross_entropy(
    scores: Tensor,
    targets: Tensor,
    *,
    threshold: float | Tensor = 0.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
    num_items: int | Tensor | None = None,
) -> Tensor:
    r"""Every target class should score above the threshold, every other class below it.

    .. math:: L = \log\Bigl(e^{s_0} + \sum_{neg} e^{s}\Bigr) + \log\Bigl(e^{-s_0} + \sum_{pos} e^{-s}\Bigr)

    A soft target t counts t times as positive and 1 - t times as negative. The gradient of a row sums to at most 2 in
    absolute value however many classes there are, so rare positives are not drowned. Predict the classes with
    `scores > threshold`; the calibrated probability is `sigmoid(2 * scores)` (threshold 0), not `sigmoid(scores)`.

    Args:
        scores: (..., C). A class at -inf is out of the question: it counts neither as positive nor as negative.
        targets: (..., C) bool or integer 0 and 1, or float in [0, 1]; bool is faster. What is unknown goes into `mask`.
        threshold: s0, a number or a tensor that broadcasts to (...).
        mask: broadcasts to (..., C), True where a class counts; it wins over the target.
        reduction: over the rows (...): "mean", "sum" or "none".
        num_items: divisor of the mean instead of the number of rows; 0 counts as 1. The `num_items_in_batch` of
            transformers' Trainer counts the elements of the targets: divide it by C.

    Returns:
        float32 at least: scalar, or (...) for "none". A row whose mask is all False is 0 and not in the mean.

    Raises:
        ValueError: shapes differ, or a target that counts is outside [0, 1]; on an accelerator and under
            `torch.compile`, where a look would wait or break the graph, the loss of such a row is NaN.
    """
    check_targets("multilabel_cross_entropy", scores, targets)
    if targets.dtype != torch.bool and can_look(targets) and targets.numel():
        least, greatest = targets.aminmax()
        if not (least >= 0 and greatest <= 1) and _any_outside(targets, mask):
            raise ValueError(
                "multilabel_cross_entropy: targets must be in [0, 1]; give mask=targets >= 0 to leave out negative ones"
            )
    return _loss(upcast(scores), targets, mask, threshold, reduction, num_items)


def sparse_multilabel_cross_entropy(
    scores: Tensor,
    indices: Tensor,
    *,
    pad_index: int = -1,
    threshold: float | Tensor = 0.0,
    reduction: Reduction = "mean",
    num_items: int | Tensor | None = None,
) -> Tensor:
    """`multilabel_cross_entropy` with the positive classes given by index.

    The positives are masked out of the negatives before the sum. Subtracting them after it, as some widely copied
    versions do, is wrong in float32 once a positive score passes 16, and then pushes correct positives down.

    Args:
        scores: (..., C); -inf as in `multilabel_cross_entropy`.
        indices: (..., K) positive classes, in any order; a repeated one counts once.
        pad_index: fills the unused slots of a row.
        threshold, reduction, num_items: as in `multilabel_cross_entropy`.

    Raises:
        ValueError: the leading shapes differ, or an index is neither a class nor `pad_index`. On an accelerator and
            under `torch.compile` a look would wait or break the graph: there the loss of such a row is NaN.
    """
    if scores.shape[:-1] != indices.shape[:-1]:
        raise ValueError(
            "sparse_multilabel_cross_entropy takes scores (..., C) and indices (..., K), not "
            f"{(*scores.shape,)} and {(*indices.shape,)}"
        )
    num_classes = scores.shape[-1]
    is_padding = indices == pad_index
    valid = is_padding | ((indices >= 0) & (indices < num_classes))
    if can_look(indices) and not bool(valid.all()):
        raise ValueError(
            f"sparse_multilabel_cross_entropy: indices must be classes from 0 to {num_classes - 1} or pad_index "
            f"({pad_index}), not {int(indices[~valid][0])}"
        )
    # slot 0 of a row of C + 1 catches the padding
    slots = torch.where(is_padding | ~valid, 0, indices + 1)
    is_positive = torch.zeros((*scores.shape[:-1], scores.shape[-1] + 1), dtype=torch.bool, device=scores.device)
    is_positive = is_positive.scatter(-1, slots, True)[..., 1:]
    if not can_look(indices):
        scores = torch.where(valid.all(-1, keepdim=True), scores, torch.nan)
    return _loss(upcast(scores), is_positive, None, threshold, reduction, num_items)


def _loss(scores, targets, mask: Tensor | None, threshold, reduction: Reduction, num_items) -> Tensor:
    if not isinstance(threshold, Tensor):
        threshold = scores.new_full((), threshold)  # written there, where a copy would wait
    threshold = threshold.to(scores)[..., None]
    threshold = threshold.expand(*scores.shape[:-1], 1)

    def log_sums(positive: Tensor, negative: Tensor) -> Tensor:
        # with the threshold inside, for the log-sum of -inf alone has no gradient
        first = torch.cat([-threshold, positive], -1).logsumexp(-1)
        return first + torch.cat([threshold, negative], -1).logsumexp(-1)

    if mask is None and can_look(scores):
        losses = log_sums(*_exponents(scores, targets))
        if bool(losses.isfinite().all()):  # looking is cheaper than masking
            return reduce_loss(losses, None, reduction, num_items)
    counts = scores != -torch.inf
    if mask is not None:
        counts = counts & mask.bool()
    positive, negative = _exponents(scores.masked_fill(~counts, 0.0), targets)
    losses = log_sums(torch.where(counts, positive, -torch.inf), torch.where(counts, negative, -torch.inf))
    keep = None if mask is None else mask.bool().expand(scores.shape).any(-1)
    return reduce_loss(losses, keep, reduction, num_items)


def _any_outside(targets: Tensor, mask: Tensor | None) -> bool:
    outside = ~((targets >= 0) & (targets <= 1))  # NaN too
    return bool((outside if mask is None else outside & mask.bool()).any())


def _exponents(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """What is summed as positive and as negative: -s + log t and s + log(1 - t)."""
    if targets.is_floating_point():
        targets = targets.to(scores.dtype)
        return targets.log() - scores, (-targets).log1p() + scores
    is_positive = targets.bool()
    negative = torch.where(is_positive, -torch.inf, scores)
    if targets.dtype != torch.bool and not can_look(targets):  # a target that is neither 0 nor 1
        negative = torch.where(targets == is_positive, negative, torch.nan)
    return torch.where(is_positive, -scores, -torch.inf), negative


def global_pointer_divergence(scores_a: Tensor, scores_b: Tensor) -> Tensor:
    """(...) sum over the classes of the two binary KL divergences between sigmoid(a) and sigmoid(b), each (..., C).

    R-Drop for multi-label scores (kexue.fm/archives/9039): (sigmoid(a) - sigmoid(b)) * (a - b), which needs no
    logarithm. A class at -inf in both, as GlobalPointer masks its spans, adds nothing.
    """
    check_targets("global_pointer_divergence", scores_a, scores_b)
    scores_a, scores_b = upcast(scores_a), upcast(scores_b)
    masked = (scores_a == -torch.inf) & (scores_b == -torch.inf)
    scores_a, scores_b = scores_a.masked_fill(masked, 0.0), scores_b.masked_fill(masked, 0.0)
    return ((F.sigmoid(scores_a) - F.sigmoid(scores_b)) * (scores_a - scores_b)).sum(-1)
