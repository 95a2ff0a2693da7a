"""AdaFactor's update of a large matrix in four passes over memory, each its own compiled kernel.

Compiled as one graph, inductor sums over columns with strided reads and stores the intermediate matrices: slower than
the plain form should be. Here the sums over rows, the sums over columns (in blocks of rows, whose partial sums stay in
the cache), the norm of the update, and the new value are separate graphs, and no matrix is stored but the parameter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from suzoo.optimizers._tensors import Rounding, compute_dtype, read, write

BLOCK = 64  # rows


def square_sums_over_columns(grad: Tensor, param: Tensor, compensation: Tensor | None) -> tuple[Tensor, Tensor]:
    """(n, m) -> sums (n,) of squares of the gradient and of the parameter."""
    grad = grad.to(compute_dtype(param))
    return grad.square().sum(1), read(param, compensation).square().sum(1)


def square_sums_over_rows(grad: Tensor, dtype: torch.dtype) -> Tensor:
    """(n, m) -> sums (m,) of squares, in blocks."""
    whole = grad.shape[0] // BLOCK * BLOCK
    blocks = grad[:whole].to(dtype).square().view(-1, BLOCK, grad.shape[1]).sum(1)
    return blocks.sum(0) + grad[whole:].to(dtype).square().sum(0)


def square_sums_of_update(grad: Tensor, factor_m: Tensor) -> Tensor:
    """(n,): the squares of an update summed over columns, but for the factor of each row."""
    return (grad.to(factor_m.dtype) * factor_m).square().sum(1)


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
    param: Tensor,
    grad: Tensor,
    state: dict[str, Tensor],
    rounding: Rounding,
    options: dict[str, Any],
) -> None:
    """`adafactor_update` for a contiguous (n, m) matrix, in place; `options` are its keyword arguments."""
    dtype = compute_dtype(param)
    rows, _ = options["dims"]
    eps1, eps2 = options["eps"]
    n, m = param.shape
    compensation, momentum = state.get("compensation"), state.get("momentum")
    with torch._dynamo.config.patch(recompile_limit=256, accumulated_recompile_limit=1024):
        grad_n, param_n = _compiled(square_sums_over_columns)(grad, param, compensation)
        grad_m = _compiled(square_sums_over_rows)(grad, dtype)
        means = {0: (grad_n / m + eps1).unsqueeze(1), 1: (grad_m / n + eps1).unsqueeze(0)}
        # the state called "row" is indexed by the dimension `rows`, which need not be the first
        row, column = state["row"], state["column"]
        row.lerp_(means[rows], 1 - options["beta2"])
        column.lerp_(means[1 - rows], 1 - options["beta2"])
        row_factor, column_factor = (row / row.mean()).rsqrt().flatten(), column.rsqrt().flatten()
        factor_n, factor_m = (row_factor, column_factor) if rows == 0 else (column_factor, row_factor)
        clip = options["clip_threshold"]
        if clip is not None:
            update_n = _compiled(square_sums_of_update)(grad, factor_m)
            rms = (torch.dot(update_n, factor_n.square()) / (n * m)).sqrt()
            factor_n = factor_n / (rms / clip).clamp_min(1.0)
        scale = (param_n.sum() / (n * m)).sqrt().clamp_min(eps2) if options["scale_parameter"] else param_n.new_ones(())
        rate = scale * options["lr"]
        decay = (rate if options["scale_weight_decay"] else torch.full_like(rate, options["lr"])) * options[
            "weight_decay"
        ]
        _compiled(store)(
            param,
            grad,
            momentum,
            compensation,
            rounding,
            factor_n,
            factor_m,
            rate,
            decay,
            options["beta1"],
            options["momentum_on"] == "step",
        )
