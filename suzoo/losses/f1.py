"""Losses from the F1 score: cross-entropy weighted by it, and dice, which is its smooth form.

Source: Su, "再谈类别不平衡问题", kexue.fm/archives/7708; dice: arXiv 1606.04797. Elementwise.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suzoo.distributed import all_reduce_sum, gather
from suzoo.losses._common import Reduction, binary_margin, check_options, check_targets, reduce_loss, upcast_finite


def f1_weighted_bce(
    logits: Tensor,
    targets: Tensor,
    *,
    f1: float | Tensor | None = None,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    num_items: int | Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy with weight 1 - F1/2 on positives and F1/2 on negatives; F1 is not differentiated.

    It is the gradient of the smooth F1 with the probabilities inside replaced by their logarithms. The worse the F1,
    the more the negatives are neglected.

    Args:
        logits: (...), targets: (...) 0, 1 or `ignore_index`.
        f1: the smooth F1 to weight by, a number or a tensor that broadcasts to the logits. None takes that of the
            batch, over all ranks: a batch without a positive then has F1 0 and teaches nothing, so with rare positives
            pass that of a `RunningF1`.
        reduction, ignore_index, num_items: as in `cross_entropy_loss`.

    Raises:
        ValueError: shapes do not fit, the number f1 is outside [0, 1], or a target as in `binary_focal_loss`.
    """
    if f1 is not None:
        check_options("f1_weighted_bce", most=1, f1=f1)
    margin, positive = binary_margin("f1_weighted_bce", logits, targets, ignore_index)
    keep = targets != ignore_index
    if f1 is None:
        sums = _overlap_and_mass(upcast_finite(logits), targets, keep)
        overlap, mass = all_reduce_sum(torch.stack(sums))
        f1 = _ratio(2 * overlap, mass)
    f1 = torch.as_tensor(f1, dtype=margin.dtype, device=margin.device).detach()
    sizes = zip(reversed(f1.shape), reversed(margin.shape), strict=False)
    if f1.dim() > margin.dim() or any(size not in (1, of_logits) for size, of_logits in sizes):
        raise ValueError(f"f1_weighted_bce: f1 {(*f1.shape,)} does not broadcast to the logits {(*logits.shape,)}")
    losses = -torch.where(positive, 1 - f1 / 2, f1 / 2) * F.logsigmoid(margin)
    return reduce_loss(losses, keep, reduction, num_items)


class RunningF1(nn.Module):
    """Exponential mean of the smooth F1 over steps and ranks: `f1_weighted_bce(z, y, f1=running_f1(z, y))`.

    Overlap and mass are averaged before the division, so a batch without positives does not pull F1 to 0. A batch whose
    sums are not finite is left out: one NaN logit would stay in the mean for good.

    Args:
        num_classes: None keeps one F1 over all elements, a number one F1 for each class of the last dimension.
        momentum: weight of the past at each update.
        prior: the F1 before the first update.
    """

    overlap: Tensor
    mass: Tensor

    def __init__(self, num_classes: int | None = None, *, momentum: float = 0.99, prior: float = 0.5):
        super().__init__()
        if not 0 <= momentum < 1 or not 0 <= prior <= 1:
            raise ValueError(f"RunningF1: momentum {momentum} must be in [0, 1) and prior {prior} in [0, 1]")
        self.num_classes, self.momentum = num_classes, momentum
        shape = () if num_classes is None else (num_classes,)
        self.register_buffer("overlap", torch.full(shape, prior / 2))
        self.register_buffer("mass", torch.ones(shape))

    @torch.no_grad()
    def forward(self, logits: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
        """The F1 after an update with logits and targets (..., C); in eval mode without one. Scalar or (C,)."""
        if self.training:
            check_targets("RunningF1", logits, targets)
            keep = targets != ignore_index
            by_class = self.num_classes is not None
            if by_class and logits.shape[-1:] != (self.num_classes,):
                raise ValueError(f"RunningF1 takes logits (..., {self.num_classes}), not {(*logits.shape,)}")
            overlap, mass = _overlap_and_mass(upcast_finite(logits), targets, keep, by_class)
            count = _sum(keep, by_class)
            overlap, mass, count = all_reduce_sum(torch.stack([overlap, mass, count.to(mass.dtype)]))
            learns = (count > 0) & mass.isfinite()  # else the overlap is not finite either, and 0 * NaN would be NaN
            for mean, new in ((self.overlap, overlap), (self.mass, mass)):
                new = torch.where(learns, new / count.clamp_min(1), 0.0).to(mean.dtype)
                mean.lerp_(new, torch.where(learns, 1 - self.momentum, 0.0).to(mean.dtype))
        return _ratio(2 * self.overlap, self.mass)


def dice_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    smoothing: float = 1.0,
    average: Literal["micro", "macro"] = "micro",
    ignore_index: int = -100,
) -> Tensor:
    """1 - (2 sum(y p) + s) / (sum(y) + sum(p) + s) over the batch of all ranks; with s = 0 it is 1 - smooth F1.

    Args:
        logits: (..., C) or (...), targets: same shape, 0, 1, a probability, or `ignore_index`.
        smoothing: s >= 0. With 0 a batch without positives has no gradient; with 1 it pushes probabilities down.
        average: "micro" takes one ratio over everything, "macro" the mean over the classes of the last dimension.

    Returns:
        Scalar, float32 at least, the same on every rank. It couples the batch: not the mean of its parts.

    Raises:
        ValueError: shapes differ, smoothing < 0, or an unknown average.
    """
    check_targets("dice_loss", logits, targets)
    check_options("dice_loss", smoothing=smoothing)
    if average not in ("micro", "macro"):
        raise ValueError(f"dice_loss: average must be 'micro' or 'macro', not {average!r}")
    if average == "macro" and logits.dim() == 0:
        raise ValueError("dice_loss: average='macro' takes logits (..., C), not a scalar")
    keep = targets != ignore_index
    sums = torch.stack(_overlap_and_mass(upcast_finite(logits), targets, keep, average == "macro"))
    overlap, mass = gather(sums[None]).sum(0)
    nothing = mass + smoothing == 0
    dice = (2 * overlap + smoothing) / torch.where(nothing, 1.0, mass + smoothing)
    return reduce_loss(torch.where(nothing, 0.0, 1 - dice), None, "mean", None)


def _sum(values: Tensor, by_class: bool) -> Tensor:
    """Over everything, or over all but the last dimension. (`sum(())` of values (C,) would be over everything too.)"""
    return torch.atleast_2d(values).flatten(0, -2).sum(0) if by_class else values.sum()


def _overlap_and_mass(logits: Tensor, targets: Tensor, keep: Tensor, by_class: bool = False) -> tuple[Tensor, Tensor]:
    """Sums of y p and of y + p where kept."""
    p = torch.where(keep, logits.sigmoid(), 0.0)
    y = torch.where(keep, targets.to(logits.dtype), 0.0)
    return _sum(y * p, by_class), _sum(y + p, by_class)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return torch.where(denominator == 0, 0.0, numerator / denominator.clamp_min(1e-30))
