"""The optimizers the conformance kit runs, by the name they have in docs/optimizers.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suzoo.optimizers import Accumulated, AccumulatedAdamW, AccumulatedSGD, AdaFactor, AdaX, AdaXW, Lion, Tiger
from tests.optimizers._signum import Signum


@dataclass(frozen=True)
class Case:
    make: Callable  # (params or groups, **options) -> optimizer, with a learning rate at which all shapes move
    k: int = 1  # micro-steps per update
    elementwise: bool = True  # no reduction over the tensor: sharding may not change a bit
    foreach: bool = False
    compile: bool = True


def _wrapped_lion(params, lr=0.03, weight_decay=0.1, **options):
    return Accumulated(Lion(params, lr, weight_decay=weight_decay, **options), 2)


CASES = {
    "AdaFactor": Case(lambda p, lr=0.03, **o: AdaFactor(p, lr, **o), elementwise=False, foreach=True),
    "AdaFactor, momentum": Case(
        lambda p, lr=0.03, **o: AdaFactor(p, lr, beta1=0.9, **o), elementwise=False, foreach=True
    ),
    "AdaX": Case(lambda p, lr=0.03, **o: AdaX(p, lr, **o), foreach=True),
    "AdaXW": Case(lambda p, lr=0.03, **o: AdaXW(p, lr, **o), foreach=True),
    "Lion": Case(lambda p, lr=0.03, **o: Lion(p, lr, **o), foreach=True),
    "Tiger": Case(lambda p, lr=0.03, **o: Tiger(p, lr, **o), elementwise=False, foreach=True),
    "Tiger, k=2": Case(lambda p, lr=0.03, **o: Tiger(p, lr, accumulation_steps=2, **o), k=2, elementwise=False),
    "AccumulatedSGD, k=2": Case(lambda p, lr=0.03, **o: AccumulatedSGD(p, lr, accumulation_steps=2, **o), k=2),
    "AccumulatedSGD": Case(lambda p, lr=0.03, **o: AccumulatedSGD(p, lr, **o), foreach=True),
    "AccumulatedAdamW": Case(lambda p, lr=0.03, **o: AccumulatedAdamW(p, lr, **o), foreach=True),
    "AccumulatedAdamW, k=2": Case(lambda p, lr=0.03, **o: AccumulatedAdamW(p, lr, accumulation_steps=2, **o), k=2),
    "Accumulated(Lion, 2)": Case(_wrapped_lion, k=2, compile=False),
    "Signum": Case(lambda p, lr=0.03, **o: Signum(p, lr, **o)),  # the smallest rule, of CONTRIBUTING.md
}

# scalar, vector, matrix, matrix large enough to be factored, convolution, one row, nothing at all
SHAPES = ((), (3,), (4, 5), (130, 129), (2, 3, 3, 3), (1, 6), (0, 3))


def make_params(dtype: torch.dtype = torch.float32, device: str = "cpu") -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(7)
    values = [0.1 * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]
    return [nn.Parameter(value.to(dtype).to(device)) for value in values]


def set_grads(params: list[nn.Parameter], step: int, scale: float = 1.0) -> None:
    """The gradients of micro-step `step`, added to what is there, as backward does."""
    generator = torch.Generator().manual_seed(1000 + step)
    for param in params:
        grad = scale * torch.randn(param.shape, generator=generator, dtype=torch.float64)
        grad = grad.to(param.dtype).to(param.device)
        param.grad = grad if param.grad is None else param.grad + grad


def run_steps(optimizer, params: list[nn.Parameter], steps: range, set_to_none: bool = True) -> list[Tensor]:
    for step in steps:
        set_grads(params, step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=set_to_none)
    return [param.detach().clone() for param in params]
