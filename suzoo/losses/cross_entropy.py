"""Cross-entropy with label smoothing, z-loss and a global token count.

Source: z-loss: PaLM, arXiv 2204.02311; smoothing: arXiv 1512.00567. Shapes: (...) tokens, C classes.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from suzoo.losses._common import (
    Reduction,
    can_look,
    check_class_labels,
    check_options,
    divide_by_count,
    reduce_loss,
    target_and_uniform_nll,
    target_nll,
    upcast_kept,
)


def cross_entropy_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    num_items: int | Tensor | None = None,
) -> Tensor:
    """What `F.cross_entropy` does, where it does not give NaN, plus z-loss and a token count of the whole step.

    No label left gives an attached 0 (torch: NaN), and smoothing skips classes at -inf (torch: inf).

    Args:
        logits: (..., C), labels: (...) class indices.
        label_smoothing: ε: (1 - ε) nll + ε * mean over the classes of -log p, as torch.
        z_loss: ζ, adds ζ logsumexp(logits)², which keeps logits from drifting; PaLM uses 1e-4.
        reduction: "mean" over the labels that are not ignored, "sum" or "none".
        ignore_index: this label is left out.
        num_items: divisor of the mean: the number of labels over all micro-batches and ranks (`num_items_in_batch`);
            0 counts as 1.

    Returns:
        float32 at least: scalar, or (...) for "none".

    Raises:
        ValueError: shapes do not fit, label_smoothing is outside [0, 1], or z_loss < 0.
    """
    check_class_labels("cross_entropy_loss", logits, labels)
    check_options("cross_entropy_loss", most=1, label_smoothing=label_smoothing)
    check_options("cross_entropy_loss", z_loss=z_loss)
    # on the CPU it is cheaper to look than to mask and to count
    num_ignored = int((labels == ignore_index).sum()) if can_look(labels) else None
    logits = upcast_kept(logits, labels, ignore_index, num_ignored)
    if reduction != "none" and not z_loss:  # torch's own reduction has the fewest passes
        rows = (logits, labels) if labels.dim() == 1 else (logits.flatten(0, -2), labels.flatten())
        loss_of_rows = partial(F.cross_entropy, *rows, ignore_index=ignore_index, label_smoothing=label_smoothing)
        if reduction == "mean" and num_items is None and num_ignored is not None and num_ignored < labels.numel():
            loss = loss_of_rows()
        else:
            total = loss_of_rows(reduction="sum")
            loss = divide_by_count(total, labels != ignore_index, reduction, num_items)
        # with smoothing, a class at -inf makes it infinite: that is left out below
        if not label_smoothing or (can_look(loss) and bool(loss.isfinite())):
            return loss
    if label_smoothing > 0:
        nll, uniform = target_and_uniform_nll(logits, labels, ignore_index)
        losses = (1 - label_smoothing) * nll + label_smoothing * uniform
    else:
        losses = target_nll(logits, labels, ignore_index)
    if z_loss:
        losses = losses + z_loss * logits.logsumexp(-1).square()
    return reduce_loss(losses, labels != ignore_index, reduction, num_items)
