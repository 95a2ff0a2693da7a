"""AdaFactor's update of a large matrix in three compiled passes.

Compiled as one graph, inductor sums over columns with strided reads and stores the intermediate matrices: slower than
the plain form should be. Here the moments (with the sums over columns in blocks of rows, whose partial sums stay in the
cache), the norm of the update, and the new value are separate graphs, and no matrix is stored but the parameter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from suzoo.optimizers._tensors import Rounding, compute_dtype, read, write

BLOCK = 64  # rows


def new_factors(
    param: Tensor,
    grad: Tensor,
    compensation: Tensor | None,
    row: Tensor,
    column: Tensor,
    weight: Tensor,
    eps1: float,
    rows: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Update the moments; the factors (n,) and (m,) that turn the gradient into the update, and RMS(θ)."""
    value = read(param, compensation)
    n, m = value.shape
    grad_n, value_n = grad.to(value.dtype).square().sum(1), value.square().sum(1)
    whole = n // BLOCK * BLOCK
    blocks = grad[:whole].to(value.dtype).square().view(-1, BLOCK, m).sum(1)
    grad_m = blocks.sum(0) + grad[whole:].to(value.dtype).square().sum(0)
    # the state called "row" is indexed by the dimension `rows`, which need not be the first
    means = {0: (grad_n / m + eps1).unsqueeze(1), 1: (grad_m / n + eps1).unsqueeze(0)}
    new_row, new_column = row.lerp(means[rows], weight), column.lerp(means[1 - rows], weight)
    factors = {rows: (new_row / new_row.mean()).rsqrt().flatten(), 1 - rows: new_column.rsqrt().flatten()}
    row.copy_(new_row)
    column.copy_(new_column)
    return factors[0], factors[1], (value_n.sum() / (n * m)).sqrt()


def clip_factor(grad: Tensor, factor_n: Tensor, factor_m: Tensor, threshold: float) -> Tensor:
    """factor_n divided by max(1, RMS(u) / d)."""
    update_n = (grad.to(factor_m.dtype) * factor_m).square().sum(1)
    rms = ((update_n * factor_n.square()).sum() / grad.numel()).sqrt()
    return factor_n / (rms / threshold).clamp_min(1.0)


def store(
    param: Tensor,
    grad: Tensor,
    momentum: Tensor | None,
    compensation: Tensor | None,
    rounding: Rounding,
    factor_n: Tensor,
    factor_m: Tensor,
    rate: Tensor,
    decay: Tensor,
    beta1: float,
    on_step: bool,
) -> None:
    """θ ← (1 - decay) θ - rate · factor_n g factor_m, with the momentum on the update or on the whole step."""
    value = read(param, compensation)
    update = grad.to(value.dtype) * (factor_n.unsqueeze(1) * factor_m)
    if momentum is None:
        step = update * rate
    else:
        old = momentum.to(value.dtype)
        new = old.lerp(update * rate if on_step else update, 1 - beta1)
        momentum.copy_(new)
        step = new if on_step else new * rate
    write(param, value - value * decay - step, compensation, rounding)


@functools.cache
def _compiled(function: Callable) -> Callable:
    return torch.compile(function, dynamic=False, fullgraph=True)


def adafactor_fused(
    param: Tensor, grad: Tensor, state: dict[str, Tensor], rounding: Rounding, options: dict[str, Any]
) -> None:
    """`adafactor_update` for a contiguous (n, m) matrix, in place; `options` are its keyword arguments."""
    rows, _ = options["dims"]
    eps1, eps2 = options["eps"]
    compensation = state.get("compensation")
    weight = torch.full((), 1 - options["beta2"], dtype=compute_dtype(param), device=param.device)
    factor_n, factor_m, rms = _compiled(new_factors)(
        param, grad, compensation, state["row"], state["column"], weight, eps1, rows
    )
    if options["clip_threshold"] is not None:
        factor_n = _compiled(clip_factor)(grad, factor_n, factor_m, options["clip_threshold"])
    scale = rms.clamp_min(eps2) if options["scale_parameter"] else torch.ones_like(rms)
    rate = scale * options["lr"]
    decay = (scale if options["scale_weight_decay"] else torch.ones_like(rms)) * (
        options["lr"] * options["weight_decay"]
    )
    _compiled(store)(
        param, grad, state.get("momentum"), compensation, rounding, factor_n, factor_m, rate, decay,
        options["beta1"], options["momentum_on"] == "step",
    )  # fmt: skip
