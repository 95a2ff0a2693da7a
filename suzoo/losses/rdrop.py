"""R-Drop: two dropout passes over one input should agree.

Source: Liang et al., arXiv 2106.14448; Su, "又是Dropout两次！这次它做到了有监督任务的SOTA", kexue.fm/archives/8496.
Shapes: (...) rows or tokens, C classes. `suzoo.regularizers.repeat_rows` builds the two passes in one forward.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from suzoo.losses._common import (
    Reduction,
    check_class_labels,
    check_options,
    check_targets,
    reduce_loss,
    target_nll,
    upcast,
    upcast_kept,
)

Convention = Literal["blog", "paper", "readme"]
# name: (factor of CE1 + CE2, factor of alpha * D), D = KL(1||2) + KL(2||1)
_CONVENTIONS = {"blog": (0.5, 0.25), "paper": (1.0, 0.5), "readme": (0.5, 0.5)}


def rdrop_loss(
    logits_a: Tensor,
    logits_b: Tensor,
    labels: Tensor,
    *,
    alpha: float = 4.0,
    convention: Convention = "blog",
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    num_items: int | Tensor | None = None,
) -> Tensor:
    """Cross-entropy of both passes plus their symmetric KL divergence D = KL(a||b) + KL(b||a); both get gradients.

    Published alphas are not comparable, since four scales go by this name. With CE1 and CE2 of the two passes:

    - "blog" (kexue.fm, bert4keras): (CE1 + CE2)/2 + α D/4. Exactly half of "paper", so the same α and half the lr.
    - "paper" (and its fairseq code): CE1 + CE2 + α D/2.
    - "readme" (snippet of the authors' README): (CE1 + CE2)/2 + α D/2: the divergence counts double.

    Code that averages the KL over the classes divides it by C; use α/C here to compare with such numbers.
    Defaults of the sources: α 4 with dropout 0.3 for classification, 5 for translation, 0.7 for BART summarization.

    Args:
        logits_a, logits_b: (..., C) of two forward passes with dropout. A class at -inf in both is masked.
        labels: (...) class indices.
        alpha: weight of the divergence.
        convention: the scale, see above.
        reduction: "mean" over the labels that are not ignored (cross-entropy and KL alike), "sum" or "none".
        ignore_index: this label is left out, of the KL too.
        num_items: divisor of the mean: the number of labels over all micro-batches and ranks, counted once per pair.

    Returns:
        float32 at least: scalar, or (...) for "none".

    Raises:
        ValueError: shapes do not fit, alpha < 0, or an unknown convention.
    """
    check_class_labels("rdrop_loss", logits_a, labels)
    logits_a, logits_b = (upcast_kept(logits, labels, ignore_index) for logits in (logits_a, logits_b))
    losses = rdrop_sum(
        target_nll(logits_a, labels, ignore_index),
        target_nll(logits_b, labels, ignore_index),
        symmetric_kl(logits_a, logits_b),
        alpha=alpha,
        convention=convention,
    )
    return reduce_loss(losses, labels != ignore_index, reduction, num_items)


def rdrop_sum(
    loss_a: Tensor, loss_b: Tensor, divergence: Tensor, *, alpha: float = 4.0, convention: Convention = "blog"
) -> Tensor:
    """R-Drop of any two losses of one input and their divergence, such as `symmetric_kl` (both directions added).

    The three have one shape, or broadcast; alpha and convention as in `rdrop_loss`, which is this for cross-entropy.

    Raises:
        ValueError: alpha < 0, or an unknown convention.
    """
    check_options("rdrop_loss", alpha=alpha)
    if convention not in _CONVENTIONS:
        raise ValueError(f"rdrop_loss: convention must be one of {sorted(_CONVENTIONS)}, not {convention!r}")
    of_losses, of_divergence = _CONVENTIONS[convention]
    return of_losses * (loss_a + loss_b) + of_divergence * alpha * divergence


def symmetric_kl(logits_a: Tensor, logits_b: Tensor) -> Tensor:
    """(...) KL(a||b) + KL(b||a) of softmax distributions from logits (..., C), at least 0, differentiable in both.

    The semi-supervised R-Drop: its mean over unlabelled rows, alternating with supervised steps. Computed as the sum of
    (p - q)(log p - log q). A class at -inf in both adds nothing; at -inf in one only, the divergence is inf.
    """
    check_targets("symmetric_kl", logits_a, logits_b)
    log_p, log_q = upcast(logits_a).log_softmax(-1), upcast(logits_b).log_softmax(-1)
    p_minus_q = log_p.exp() - log_q.exp()
    masked = (log_p == -torch.inf) & (log_q == -torch.inf)
    return (p_minus_q * (log_p.masked_fill(masked, 0.0) - log_q.masked_fill(masked, 0.0))).sum(-1)
