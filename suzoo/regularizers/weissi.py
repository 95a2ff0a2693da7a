"""WEISSI: a weight penalty that does not change when scale moves from one layer to the next.

Sources: Liu et al., arXiv 2008.02965; Su, "L2正则没有想象那么好？可能是“权重尺度偏移”惹的祸", kexue.fm/archives/7681.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def weissi_penalty(weights: Iterable[Tensor], *, log_weight: float = 1e-4, direction_weight: float = 1e-4) -> Tensor:
    r"""A penalty to add to the loss, for networks whose layers are homogeneous (linear or convolution with ReLU).

    .. math:: \lambda_1 \sum_l \log \|W_l\|_F + \lambda_2 \sum_l \Bigl\| \frac{W_l}{\|W_l\|_F} \Bigr\|_1

    Multiplying one W by γ and another by 1/γ changes neither such a network nor this penalty, but does change L2. The
    first term pulls on a matrix with strength λ1/|W|, the more the smaller it is: below the length 1e-6 it stops, and
    weights initialized to zero are left out. With layer norm or attention in between the argument does not hold.

    Args:
        weights: matrices and convolution kernels; no biases, norms or embeddings. Anything below 2 dimensions raises.
        log_weight: λ1. direction_weight: λ2. The defaults are ours: the paper's were not to be had.

    Returns:
        Scalar, float32 at least; negative if the matrices are short.

    Raises:
        ValueError: a weight with fewer than 2 dimensions, or no weight at all.
    """
    total = None
    for weight in weights:
        if weight.dim() < 2:
            raise ValueError(
                f"weissi_penalty takes matrices and kernels, not shape {(*weight.shape,)}: "
                "pass [m.weight for m in model.modules() if isinstance(m, nn.Linear)]"
            )
        weight = weight if weight.dtype == torch.float64 else weight.float()
        square = weight.square().sum()
        short = square <= 1e-12
        length = torch.where(short, 1.0, square).sqrt()  # log 1 = 0: a short matrix adds nothing
        term = log_weight * length.log() + direction_weight * torch.where(short, 0.0, weight.abs().sum() / length)
        total = term if total is None else total + term
    if total is None:
        raise ValueError("weissi_penalty got no weights: pass the matrices of the model's layers")
    return total
