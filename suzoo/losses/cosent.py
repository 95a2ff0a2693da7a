"""CoSENT: a ranking loss on the scores of sentence pairs.

Source: Su, "CoSENT (一)", kexue.fm/archives/8847; cross-encoder: kexue.fm/archives/9341. Shapes: P pairs.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from suzoo.losses._common import can_look, check_scale, is_traced


def cosent_loss(scores: Tensor, labels: Tensor, *, scale: float = 20.0) -> Tensor:
    r"""Pairs with a larger label should score higher than pairs with a smaller one; only the order of labels counts.

    .. math:: L = \log\Bigl(1 + \sum_{y_a > y_b} e^{\lambda (s_b - s_a)}\Bigr)

    The sum is inside the logarithm, so the loss couples the whole batch: it is not the mean of the losses of parts.
    Under accumulation use `suzoo.engine.batch_coupled_backward`; across ranks pass `suzoo.distributed.gather`ed scores.

    Args:
        scores: (P,) one score per pair: the cosine for an encoder, any real score for a cross-encoder. Computed in
            float64, where the running sum keeps the float32 gradient exact; an infinite score gets no gradient.
        labels: (P,) larger is more similar: 0/1, grades, or NLI as contradiction 0, neutral 1, entailment 2. Labels
            that were averaged must be rounded, or ties are lost. Leave out the rows that should not count.
        scale: the inverse temperature λ; 20 for cosines, 1 for a cross-encoder whose score has its own scale.

    Returns:
        Scalar, float32 (float64 for float64 scores). Exactly 0 with exactly zero gradient when no two labels differ.
        It grows with the logarithm of the number of ordered couples: do not compare it across batch sizes.

    Raises:
        ValueError: shapes differ or are not (P,), scale is not positive, or a label is NaN (not checked under
            `torch.compile`; on an accelerator, where a look would wait, the loss is NaN then).

    Time O(P log P), memory O(P), twice differentiable.
    """
    check_scale("cosent_loss", scale)
    if scores.dim() != 1 or scores.shape != labels.shape:
        raise ValueError(
            f"cosent_loss takes scores (P,) and labels (P,), not {(*scores.shape,)} and {(*labels.shape,)}"
        )
    result_dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    labels_P, order = (labels.int() if labels.dtype == torch.bool else labels).sort()
    # NaN sorts last
    if labels.is_floating_point() and len(labels_P):
        if can_look(labels_P) and math.isnan(labels_P[-1]):
            raise ValueError("cosent_loss got a NaN label; drop the row or fix the data")
        if not is_traced() and not can_look(labels_P):
            scores = torch.where(labels_P[-1].isnan(), torch.nan, scores)
    wide = torch.float32 if scores.device.type == "mps" else torch.float64  # MPS has no float64
    scaled_P = scores.to(wide)[order] * scale
    # number of pairs whose label is strictly smaller: ties share the start of their group
    num_below_P = torch.searchsorted(labels_P, labels_P)

    # The sum over b for one a is (sum of exp(s_b) over the first num_below pairs) * exp(-s_a).
    if can_look(scaled_P) and wide == torch.float64 and len(scaled_P):
        low, high = scaled_P.detach().aminmax()
        if bool(high - low < 300):  # then exp, its products and their squares stay below 1e308
            centered_P = scaled_P - (low + high) / 2
            sums = F.pad(centered_P.exp().cumsum(0), (1, 0))
            return (sums[num_below_P] * (-centered_P).exp()).sum().log1p().to(result_dtype)
    scaled_P = scaled_P.clamp(-1e30, 1e30)  # only replaces infinities, whose differences would be NaN
    log_sums = F.pad(scaled_P.logcumsumexp(0), (1, 0), value=-torch.inf)
    return F.pad(log_sums[num_below_P] - scaled_P, (1, 0)).logsumexp(0).to(result_dtype)
