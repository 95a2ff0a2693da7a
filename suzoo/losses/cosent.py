"""CoSENT: a ranking loss on the scores of sentence pairs.

Source: Su, "CoSENT (一)", kexue.fm/archives/8847; cross-encoder: kexue.fm/archives/9341. Shapes: P pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cosent_loss(scores: Tensor, labels: Tensor, *, scale: float = 20.0) -> Tensor:
    r"""Pairs with a larger label should score higher than pairs with a smaller one; only the order of labels counts.

    .. math:: L = \log\Bigl(1 + \sum_{y_a > y_b} e^{\lambda (s_b - s_a)}\Bigr)

    The sum is inside the logarithm, so the loss couples the whole batch: it is not the mean of the losses of parts.
    Under accumulation use `suzoo.engine.batch_coupled_backward`; across ranks pass `suzoo.distributed.gather`ed scores.

    Args:
        scores: (P,) one score per pair: the cosine for an encoder, any real score for a cross-encoder. Computed in
            float32 (float64 stays float64).
        labels: (P,) larger is more similar: 0/1, grades, or NLI as contradiction 0, neutral 1, entailment 2.
        scale: the inverse temperature λ; 20 for cosines, 1 for a cross-encoder whose score has its own scale.

    Returns:
        Scalar. Exactly 0 with exactly zero gradient when no two labels differ.

    Raises:
        ValueError: shapes differ or are not (P,), or a label is NaN.

    Time O(P log P), memory O(P).
    """
    if scores.dim() != 1 or scores.shape != labels.shape:
        raise ValueError(
            f"cosent_loss takes scores (P,) and labels (P,), not {(*scores.shape,)} and {(*labels.shape,)}"
        )
    if not torch.compiler.is_compiling() and labels.is_floating_point() and bool(labels.isnan().any()):
        raise ValueError("cosent_loss got a NaN label; drop the row or fix the data")
    scores = scores if scores.dtype == torch.float64 else scores.float()
    labels_P, order = labels.sort()
    scaled_P = scores[order] * scale
    # below[j]: number of pairs whose label is strictly smaller than label j; ties share the start of their group
    below_P = torch.searchsorted(labels_P, labels_P)
    # the sum over b of exp(s_b - s_a) for one a is exp(prefix[below - 1] - s_a); no smaller label, no term
    prefix_P = scaled_P.logcumsumexp(0)
    terms_P = prefix_P[(below_P - 1).clamp_min(0)] - scaled_P
    terms_P = torch.where(below_P > 0, terms_P, -torch.inf)
    return torch.cat([terms_P.new_zeros(1), terms_P]).logsumexp(0)
