"""AnglE: a score that compares angles in complex space, for CoSENT to rank.

Source: Li and Li, arXiv 2309.12871 and its code SeanLee97/AnglE. Shapes: P pairs, D features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from suzoo.losses._common import upcast


def angle_scores(embeddings_a: Tensor, embeddings_b: Tensor) -> Tensor:
    """(P,) scores of pairs of embeddings (P, D), D even; the loss is `cosent_loss(angle_scores(a, b), labels)`.

    The halves of a vector are real and imaginary parts. With both normalized, the score is the absolute sum of the real
    and imaginary parts of a * conj(b), as in the authors' code. It is not symmetric: swapping a and b changes it.

    Returns:
        (P,) float32 at least.

    Raises:
        ValueError: shapes differ, or D is odd.
    """
    if embeddings_a.shape != embeddings_b.shape or embeddings_a.shape[-1] % 2:
        raise ValueError(
            "angle_scores takes two embeddings (P, D) with D even, not "
            f"{(*embeddings_a.shape,)} and {(*embeddings_b.shape,)}"
        )
    re_a, im_a = F.normalize(upcast(embeddings_a), dim=-1).chunk(2, -1)
    re_b, im_b = F.normalize(upcast(embeddings_b), dim=-1).chunk(2, -1)
    return torch.abs((re_a * re_b + im_a * im_b + im_a * re_b - re_a * im_b).sum(-1))
