"""Softmax over cosines with a margin, and the margin that retrieval needs.

Sources: AM-Softmax, arXiv 1801.05599 and kexue.fm/archives/5743; ArcFace, arXiv 1801.07698; the margin from the
triangle inequality: Su, kexue.fm/archives/8656. Shapes: (...) rows, C classes, D features, N embeddings.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from suzoo.distributed import all_reduce_sum
from suzoo.losses._common import (
    Reduction,
    check_class_labels,
    check_scale,
    cosine_matrix,
    reduce_loss,
    safe_target,
    target_nll,
    upcast,
    upcast_kept,
)


class CosineLinear(nn.Module):
    """Cosines between the input (..., in_features) and one learnt direction per class: (..., num_classes).

    Always computed in float32 at least: a bfloat16 cosine times 30 is off by whole tenths.
    """

    def __init__(self, in_features: int, num_classes: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_classes, in_features))

    def forward(self, hidden: Tensor) -> Tensor:
        return cosine_matrix(hidden.flatten(0, -2), self.weight).view(*hidden.shape[:-1], len(self.weight))

    def extra_repr(self) -> str:
        return f"in_features={self.weight.shape[1]}, num_classes={self.weight.shape[0]}"


def am_softmax_loss(
    cosines: Tensor,
    labels: Tensor,
    *,
    scale: float = 30.0,
    margin: float = 0.35,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    num_items: int | Tensor | None = None,
) -> Tensor:
    """AM-Softmax (CosFace): cross-entropy of `scale * cosines` after taking `margin` from the target's cosine.

    Also the loss of kexue.fm/archives/8656 in a true metric: pass `-metric_distance(cosines)` for the cosines and
    `estimate_margin` for the margin. The defaults are those of the paper; CosFace in other libraries has scale 64.

    Args:
        cosines: (..., C), for example of `CosineLinear`. labels: (...) class indices.
        scale: inverse temperature s.
        margin: m; 0 is plain scaled cross-entropy.
        reduction, ignore_index, num_items: as in `cross_entropy_loss`.

    Raises:
        ValueError: shapes do not fit, or scale is not positive.
    """
    check_class_labels("am_softmax_loss", cosines, labels)
    check_scale("am_softmax_loss", scale)
    cosines = upcast_kept(cosines, labels, ignore_index)
    target = safe_target(labels, ignore_index)
    logits = cosines.scatter_add(-1, target, cosines.new_full(target.shape, -margin)) * scale
    return reduce_loss(target_nll(logits, labels, ignore_index), labels != ignore_index, reduction, num_items)


def arcface_loss(
    cosines: Tensor,
    labels: Tensor,
    *,
    scale: float = 64.0,
    margin: float = 0.5,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    num_items: int | Tensor | None = None,
) -> Tensor:
    """ArcFace: cross-entropy of scaled cosines after adding `margin` (radians) to the target's angle.

    The angle is itself a metric, so the triangle-inequality argument of kexue.fm/archives/8656 holds with the margin
    `estimate_margin(..., geometry="angle")`. Beyond π - m the target's cosine is lowered by m sin m instead, so that it
    stays monotone. Written without arccos, whose gradient at cosine 1 is infinite; near 1 it is still about 100 (times
    the scale), so clip gradients.

    Args:
        cosines: (..., C). labels: (...) class indices.
        scale, margin: of the paper.
        reduction, ignore_index, num_items: as in `cross_entropy_loss`.

    Raises:
        ValueError: shapes do not fit, or scale is not positive.
    """
    check_class_labels("arcface_loss", cosines, labels)
    check_scale("arcface_loss", scale)
    cosines = upcast(cosines)
    target = safe_target(labels, ignore_index)
    cosine = cosines.gather(-1, target).clamp(-1 + 1e-7, 1 - 1e-7)
    turned = cosine * math.cos(margin) - (1 - cosine.square()).sqrt() * math.sin(margin)
    turned = torch.where(cosine > math.cos(math.pi - margin), turned, cosine - margin * math.sin(margin))
    logits = cosines.scatter(-1, target, turned) * scale
    return reduce_loss(target_nll(logits, labels, ignore_index), labels != ignore_index, reduction, num_items)


def metric_distance(cosines: Tensor, *, geometry: Literal["chord", "angle"] = "chord") -> Tensor:
    """Distances that obey the triangle inequality, which 1 - cosine does not.

    "chord" is sqrt(1 - cosine), in [0, sqrt 2]; "angle" is arccos, in [0, π]. At cosine 1 the gradient is 0.
    """
    cosines = upcast(cosines)
    if geometry == "chord":
        gap = 1 - cosines
        return torch.where(gap > 1e-12, gap.clamp_min(1e-12).sqrt(), 0.0)
    if geometry == "angle":
        return cosines.clamp(-1 + 1e-7, 1 - 1e-7).arccos()
    raise ValueError(f"metric_distance: geometry must be 'chord' or 'angle', not {geometry!r}")


@torch.no_grad()
def estimate_margin(
    embeddings: Tensor,
    labels: Tensor,
    centers: Tensor,
    *,
    geometry: Literal["chord", "angle"] = "chord",
    ignore_index: int = -100,
) -> float:
    """The margin retrieval needs: the mean diameter of a class, two times the mean distance to its own center.

    With d(z, c_y) + margin < d(z, c_i) for the margin d(z', c_y) + d(z'', c_i), any two members of one class are closer
    than members of two (kexue.fm/archives/8656). The recipe there: train with margin 0, estimate, train again, repeat.
    "angle" is the margin for `arcface_loss`; "chord" for `am_softmax_loss(-metric_distance(cosines), ...)`. A margin m
    in the chord metric follows from a cosine margin of 2 sqrt(2) m, the loose bound that leads to AM-Softmax.

    Args:
        embeddings: (N, D), labels: (N,), centers: (C, D), for example `CosineLinear.weight`. Lengths do not matter.
        geometry: the metric, see `metric_distance`.
        ignore_index: this label is left out.

    Returns:
        Mean over the kept rows of all ranks; 0.0 if there is none.
    """
    keep = labels != ignore_index
    own = cosine_matrix(embeddings[keep], centers).gather(1, labels[keep][:, None])
    distances = metric_distance(own, geometry=geometry)
    total = all_reduce_sum(distances.sum())
    count = all_reduce_sum(keep.sum())
    return 2 * float(total / count.clamp_min(1))
