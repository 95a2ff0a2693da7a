"""Weights of the tasks from the inner products of their gradients.

Sources: Su, "多任务学习漫谈", parts II and III, kexue.fm/archives/8896 and 8907; min-norm point: Désidéri 2012 (MGDA);
PCGrad: Yu et al., arXiv 2001.06782. Shapes: T tasks; the gradient of the shared parameters becomes sum_i weight_i g_i.
"""

from __future__ import annotations

import torch
from scipy.optimize import nnls
from torch import Tensor


def inverse_gradient_norm(gramian_TT: Tensor) -> Tensor:
    """(T,) 1/|g|: every task pulls alike, whatever its scale and offset. For two tasks it opposes neither.

    The update has length up to T: with SGD choose the learning rate for that. A gradient of 0 gets weight 0.
    Under a gradient scaler give `multitask_backward` the losses unscaled: |g| would take the loss scale out again, and
    unscaling would then shrink the shared gradient by it. The other weightings do not see a common scale.
    """
    norms_T = gramian_TT.diagonal().sqrt()
    return torch.where(norms_T > 0, 1 / norms_T, 0.0)


def min_norm(gramian_TT: Tensor) -> Tensor:
    """(T,) weights >= 0 with sum 1 of the shortest convex combination u: the direction that all tasks gain from.

    <g_i, u> >= |u|² for every task, so all losses fall to first order, and u = 0 is a Pareto stationary point. For
    tasks on different data whose gradients hardly meet it says little.
    """
    return primary_auxiliary(gramian_TT, num_primary=len(gramian_TT))


def primary_auxiliary(gramian_TT: Tensor, *, num_primary: int = 1) -> Tensor:
    """(T,) weights for primary tasks, which come first, and auxiliary ones that may not get worse.

    For one primary task u = g_0 + sum λ_i g_i, λ >= 0, is the vector closest to g_0 with <g_i, u> >= 0: an auxiliary
    task weighs in only as far as g_0 would raise its loss, and <g_0, u> = |u|² >= 0. For several, g_0 is replaced by
    their min-norm combination, found jointly. Both are one non-negative least-squares problem, solved exactly.

    The article's own iteration, which adjusts the most violated task alone, stalls at points where the primary loss
    rises. The guarantee is one of plain gradient descent; Adam's preconditioner bends it.
    """
    num_tasks = len(gramian_TT)
    if not 1 <= num_primary <= num_tasks:
        raise ValueError(f"primary_auxiliary: num_primary must be in 1..{num_tasks}, not {num_primary}")
    gramian_TT = gramian_TT.detach().double().cpu()
    norms_T = gramian_TT.diagonal().sqrt()
    of_primary = norms_T[:num_primary]
    if not of_primary.any():  # nothing to follow
        return torch.cat([torch.full((num_primary,), 1 / num_primary), torch.zeros(num_tasks - num_primary)]).double()
    # gradients of length 1 condition the problem, however far their sizes are apart. One of 0 keeps its column of zeros
    least = float(of_primary[of_primary > 0].min())
    sizes_T = torch.where(norms_T > 0, norms_T, least)
    eigenvalues, eigenvectors = torch.linalg.eigh(gramian_TT / sizes_T[:, None] / sizes_T)
    columns = eigenvalues.clamp_min(0).sqrt()[:, None] * eigenvectors.T  # columns with these inner products
    # with sum(alpha) = s free, min |columns x|² + (s - 1)² has its x along the constrained minimum: divide by s
    shares = torch.where(torch.arange(num_tasks) < num_primary, least / sizes_T, 0.0)
    system = torch.cat([columns, shares[None]]).numpy()
    solution, _ = nnls(system, [0.0] * num_tasks + [1.0])
    weights_T = torch.from_numpy(solution)
    return weights_T * (least / sizes_T) / (shares @ weights_T)


def pcgrad(gramian_TT: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """(T,) weights of PCGrad, for comparison: each gradient is made orthogonal to those it opposes, in random order.

    For three tasks or more an earlier conflict can come back.
    """
    gramian_TT = gramian_TT.detach().double().cpu()
    num_tasks = len(gramian_TT)
    weights_TT = torch.eye(num_tasks, dtype=torch.float64)  # row i: the projected gradient of task i
    for i in range(num_tasks):
        for j in torch.randperm(num_tasks, generator=generator).tolist():
            inner = weights_TT[i] @ gramian_TT[:, j]
            if j != i and inner < 0:
                weights_TT[i, j] -= inner / gramian_TT[j, j]
    return weights_TT.sum(0)
