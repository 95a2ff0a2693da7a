"""Distillation of sentence encoders: a student's vectors against those of a teacher, each by itself or by relations.

Sources: cosines as Reimers and Gurevych, arXiv 2004.09813, use the mean squared error; relations as Fang et al. (SEED),
arXiv 2101.04731, within the batch. Shapes: N texts, D features of the student, E of the teacher.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from suzoo.losses._common import Reduction, check_scale, cosine_matrix, reduce_loss, upcast


def cosine_distillation_loss(
    student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean", num_items: int | Tensor | None = None
) -> Tensor:
    """1 minus the cosine of each text's two vectors: the student learns the teacher's directions, whatever its lengths.

    Args:
        student, teacher: (N, D), not normalized; the teacher gets no gradient.
        reduction: "mean", "sum" or "none", (N,).
        num_items: the divisor of the mean, default N.

    Returns:
        Float32 at least, in [0, 2]. A vector of zeros has a cosine of 0.

    Raises:
        ValueError: the shapes differ; a student of another size needs a projection, or `relation_distillation_loss`.
    """
    if student.dim() != 2 or student.shape != teacher.shape:
        raise ValueError(
            f"cosine_distillation_loss takes student and teacher (N, D), not {(*student.shape,)} and "
            f"{(*teacher.shape,)}; vectors of two sizes compare by relation_distillation_loss"
        )
    losses_N = 1 - F.cosine_similarity(upcast(student), upcast(teacher.detach()), dim=-1)
    return reduce_loss(losses_N, None, reduction, num_items)


def relation_distillation_loss(student: Tensor, teacher: Tensor, *, scale: float = 20.0) -> Tensor:
    r"""What is near to what: each text's softmax over its cosines to the other texts of the batch, as the teacher has
    it.

    .. math:: L = \frac{1}{N} \sum_i \mathrm{KL}\Bigl(\mathrm{softmax}_{j \ne i}(\lambda \cos(t_i, t_j))\,\Big\|\,
        \mathrm{softmax}_{j \ne i}(\lambda \cos(s_i, s_j))\Bigr)

    It knows cosines only: turning all vectors of one side changes nothing, and the sides may have different sizes. It
    couples the batch: under accumulation use `suzoo.engine.batch_coupled_backward`; across ranks pass
    `suzoo.distributed.gather`ed vectors.

    Args:
        student: (N, D), not normalized. teacher: (N, E); it gets no gradient.
        scale: the inverse temperature λ; larger looks at the nearest texts only.

    Returns:
        Scalar, float32 at least; an attached zero for fewer than three texts, where there is nothing to choose.

    Raises:
        ValueError: not as many rows on both sides, or scale is not positive.
    """
    check_scale("relation_distillation_loss", scale)
    if student.dim() != 2 or teacher.dim() != 2 or len(student) != len(teacher):
        raise ValueError(
            "relation_distillation_loss takes student (N, D) and teacher (N, E), not "
            f"{(*student.shape,)} and {(*teacher.shape,)}"
        )
    if len(student) < 3:
        return upcast(student).sum() * 0.0
    itself_NN = torch.eye(len(student), dtype=torch.bool, device=student.device)
    log_p_NN, log_q_NN = (
        (cosine_matrix(vectors, vectors) * scale).masked_fill(itself_NN, -1e30).log_softmax(-1)
        for vectors in (teacher.detach(), student)
    )
    return (log_p_NN.exp() * (log_p_NN - log_q_NN)).masked_fill(itself_NN, 0.0).sum() / len(student)
