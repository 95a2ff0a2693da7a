"""Feed given gradients to an optimizer and return what becomes of the parameter."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def tensor(values, dtype=torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def random_grads(shape, count: int, seed: int = 0, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def run(make: Callable, theta: Tensor, grads: list[Tensor]) -> list[Tensor]:
    """The parameter after every step of `make([parameter])`."""
    param = torch.nn.Parameter(theta.clone())
    optimizer = make([param])
    path = []
    for grad in grads:
        param.grad = grad.to(param.dtype, copy=True)
        optimizer.step()
        optimizer.zero_grad()
        path.append(param.detach().clone())
    return path


def assert_paths_close(actual: list[Tensor], expected: list[Tensor], atol: float = 1e-12) -> None:
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)
