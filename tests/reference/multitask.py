"""Multi-task directions from the gradients themselves, by trying every set of active tasks."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def _subsets(items: range):
    return itertools.chain.from_iterable(itertools.combinations(items, size) for size in range(len(items) + 1))


def direction_reference(gradients_TD: Tensor, num_primary: int) -> Tensor:
    """(D,) the shortest sum of alpha_i g_i + lambda_j g_j over the simplex of primary and the cone of auxiliary tasks.

    On the right set of active tasks the constraint is an equality, so the shortest of all feasible candidates is it.
    """
    best = None
    num_tasks = len(gradients_TD)
    for primary in _subsets(range(num_primary)):
        for auxiliary in _subsets(range(num_primary, num_tasks)):
            if not primary:
                continue
            active = [*primary, *auxiliary]
            chosen = gradients_TD[active]
            is_primary = torch.tensor([[1.0] if i < num_primary else [0.0] for i in active], dtype=torch.float64)
            # minimize |x g|² subject to sum of the primary x = 1: stationarity and the constraint as one linear system
            bottom = torch.cat([is_primary.T, torch.zeros(1, 1)], 1)
            system = torch.cat([torch.cat([chosen @ chosen.T, is_primary], 1), bottom])
            right = torch.zeros(len(active) + 1, 1, dtype=torch.float64)
            right[-1] = 1
            x = torch.linalg.lstsq(system, right, driver="gelsd").solution[:-1, 0]
            if (x >= -1e-9).all() and abs((x * is_primary[:, 0]).sum() - 1) < 1e-6:
                u = x @ chosen
                if best is None or u.norm() < best.norm():
                    best = u
    return best


def blog_iteration(gradients_TD: Tensor, steps: int = 200) -> Tensor:
    """(D,) the iteration printed in kexue.fm/archives/8907: only the most violated auxiliary task is adjusted."""
    g0, auxiliary = gradients_TD[0], gradients_TD[1:]
    weights = torch.zeros(len(auxiliary), dtype=gradients_TD.dtype)
    for _ in range(steps):
        u = g0 + weights @ auxiliary
        worst = (auxiliary @ u).argmin()
        g = auxiliary[worst]
        weights[worst] = max(-(g @ (u - weights[worst] * g)), 0) / (g @ g)
    return g0 + weights @ auxiliary


def pcgrad_reference(gradients_TD: Tensor, generator: torch.Generator) -> Tensor:
    """(D,) PCGrad's sum, projecting vectors."""
    total = torch.zeros_like(gradients_TD[0])
    for i in range(len(gradients_TD)):
        g = gradients_TD[i].clone()
        for j in torch.randperm(len(gradients_TD), generator=generator).tolist():
            other = gradients_TD[j]
            if j != i and g @ other < 0:
                g -= (g @ other) / (other @ other) * other
        total += g
    return total
