"""Adversarial training that really moves the embedding matrix, as kexue.fm/archives/7234 does it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def pgd_on_the_matrix(
    compute_loss: Callable[[], Tensor], embedding: nn.Embedding, *, epsilon: float, step_size: float, num_steps: int
) -> Tensor:
    """The disturbed loss, detached; the weights are put back."""
    original = embedding.weight.detach().clone()
    delta = torch.zeros_like(original)
    for _ in range(num_steps):
        (grad,) = torch.autograd.grad(compute_loss(), embedding.weight)
        delta += step_size * grad / grad.norm()
        if delta.norm() > epsilon:
            delta *= epsilon / delta.norm()
        embedding.weight.data = original + delta
    loss = compute_loss().detach()
    embedding.weight.data = original
    return loss
