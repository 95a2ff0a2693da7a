"""Small tools of the loss tests."""

from __future__ import annotations

import torch
from torch import Tensor


def double(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def assert_values(actual: Tensor, expected: list, rel: float = 1e-10) -> None:
    """`actual` equals oracle numbers printed with 12 digits."""
    torch.testing.assert_close(actual.detach().double(), double(expected), rtol=rel, atol=1e-13)


def grad_of(loss, *inputs: Tensor):
    """Gradient of the summed loss with respect to every input (a tensor for one input)."""
    inputs = tuple(x.clone().requires_grad_() for x in inputs)
    grads = torch.autograd.grad(loss(*inputs).sum(), inputs)
    return grads[0] if len(grads) == 1 else grads
