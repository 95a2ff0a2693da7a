"""TaiLr and its closed form: cross-entropy that stops punishing the tokens the model finds impossible.

Source: Ji et al., "Tailoring Language Generation Models under Total Variation Distance", arXiv 2302.13344; closed form:
Su, kexue.fm/archives/9526. Shapes: (...) tokens, C classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from suzoo.losses._common import (
    Reduction,
    check_class_labels,
    check_options,
    divide_by_count,
    reduce_loss,
    target_and_uniform_nll,
    target_nll,
    upcast_kept,
)


def tailr_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float,
    min_weight: float = 0.0,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    num_items: int | Tensor | None = None,
) -> Tensor:
    r"""Cross-entropy weighted by how probable the target already is; the weight is not differentiated.

    .. math:: L = -w \log p, \qquad w = \max\Bigl(b, \frac{p}{\gamma + (1-\gamma)p}\Bigr)

    γ = 0 is cross-entropy, γ = 1 weights by p, which never learns a token it finds impossible. The gradient is that of
    `gamma_cross_entropy` if b = 0; the value is not. Published settings: γ 0.1, b 0.3 from scratch (translation);
    γ 0.8, b 0.2 fine-tuning a summarizer; γ 1e-7, b 0.2 for stories, which only clips tokens below p = 1e-6.

    Args:
        logits: (..., C), labels: (...) class indices.
        gamma: γ in [0, 1]; from scratch near 0, fine-tuning larger.
        min_weight: b in [0, 1], the least weight.
        label_smoothing: ε: (1 - ε) w nll + ε * mean over the classes of -log p; the smoothing part is not weighted.
        reduction: "mean" over the labels that are not ignored, "sum" or "none".
        ignore_index: this label is left out.
        num_items: divisor of the mean: the number of labels over all micro-batches and ranks (`num_items_in_batch`).

    Returns:
        float32 at least: scalar, or (...) for "none". A target at -inf costs 0 if b = 0 and γ > 0, else inf.

    Raises:
        ValueError: shapes do not fit, or gamma, min_weight or label_smoothing is outside [0, 1].
    """
    check_options("tailr_loss", most=1, gamma=gamma, min_weight=min_weight, label_smoothing=label_smoothing)
    check_class_labels("tailr_loss", logits, labels)
    logits = upcast_kept(logits, labels, ignore_index)
    if label_smoothing > 0:
        nll, uniform = target_and_uniform_nll(logits, labels, ignore_index)
    else:
        nll, uniform = target_nll(logits, labels, ignore_index), None
    with torch.no_grad():  # w as 1 / (γ/p + 1 - γ)
        weight = nll.exp().mul_(gamma).add_(1 - gamma).reciprocal_() if gamma > 0 else torch.ones_like(nll)
        weight = weight.clamp(min_weight, 1.0)
    # 0 * inf is 0 here: the limit of p log p
    losses = weight * (nll if min_weight > 0 else torch.where(weight > 0, nll, 0.0))
    if uniform is not None:
        losses = (1 - label_smoothing) * losses + label_smoothing * uniform
    elif reduction != "none":  # the losses of labels that are left out are 0 already
        return divide_by_count(losses.sum(), labels != ignore_index, reduction, num_items)
    return reduce_loss(losses, labels != ignore_index, reduction, num_items)


def gamma_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    num_items: int | Tensor | None = None,
) -> Tensor:
    r"""The function whose gradient TaiLr computes: from cross-entropy (γ = 0) to one minus the probability (γ = 1).

    .. math:: L = -\frac{\log(\gamma + (1-\gamma) p)}{1-\gamma}

    Args and errors as `tailr_loss`. A target at -inf costs -log(γ)/(1-γ), finite for γ > 0, and gets no gradient.
    """
    check_options("gamma_cross_entropy", most=1, gamma=gamma)
    check_class_labels("gamma_cross_entropy", logits, labels)
    nll = target_nll(upcast_kept(logits, labels, ignore_index), labels, ignore_index)
    if gamma == 0:
        losses = nll
    elif gamma == 1:
        losses = -(-nll).expm1()
    else:
        losses = -_log_mixture(-nll, gamma) / (1 - gamma)
    return reduce_loss(losses, labels != ignore_index, reduction, num_items)


def _log_mixture(log_p: Tensor, gamma: float) -> Tensor:
    """log(gamma + (1 - gamma) p) for 0 < gamma <= 1, without cancellation at either end."""
    if gamma < 0.5:
        return torch.logaddexp(log_p + math.log1p(-gamma), torch.full_like(log_p, math.log(gamma)))
    return ((1 - gamma) * log_p.expm1()).log1p()
