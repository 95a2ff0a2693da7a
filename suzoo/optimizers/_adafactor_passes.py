"""AdaFactor's update of a large matrix in three passes over memory, compiled or in pieces that stay in the cache.

Written as one expression, the update makes a dozen matrices, and compiled as one graph it sums over columns with
strided reads. Here the moments (with the sums over columns in blocks of rows), the norm of the update, and the new
value are separate passes, and no matrix is stored but the parameter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from suzoo.optimizers._tensors import Rounding, cache_pieces, compute_dtype, fused, read, write

BLOCK = 64  # rows


def square_sums(param: Tensor, grad: Tensor, compensation: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Of an (n, m) gradient the squares summed over columns (n,) and over rows (m,); of the parameter over all."""
    value = read(param, compensation)
    n, m = value.shape
    grad_n, value_n = grad.to(value.dtype).square().sum(1), value.square().sum(1)
    whole = n // BLOCK * BLOCK
    blocks = grad[:whole].to(value.dtype).square().view(-1, BLOCK, m).sum(1)
    return grad_n, blocks.sum(0) + grad[whole:].to(value.dtype).square().sum(0), value_n.sum()


def factors(
    grad_n: Tensor, grad_m: Tensor, row: Tensor, column: Tensor, weight: Tensor, eps1: float, rows: int
) -> tuple[Tensor, Tensor]:
    """Update the moments; the factors (n,) and (m,) that turn the gradient into the update."""
    # the state called "row" is indexed by the dimension `rows`, which need not be the first
    means = {0: (grad_n / len(grad_m) + eps1).unsqueeze(1), 1: (grad_m / len(grad_n) + eps1).unsqueeze(0)}
    new_row, new_column = row.lerp(means[rows], weight), column.lerp(means[1 - rows], weight)
    row.copy_(new_row)
    column.copy_(new_column)
    result = {rows: (new_row / new_row.mean()).rsqrt().flatten(), 1 - rows: new_column.rsqrt().flatten()}
    return result[0], result[1]


def moments_pass(
    param: Tensor,
    grad: Tensor,
    compensation: Tensor | None,
    row: Tensor,
    column: Tensor,
    weight: Tensor,
    eps1: float,
    rows: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """`factors`, and RMS(θ)."""
    grad_n, grad_m, value_sum = square_sums(param, grad, compensation)
    return *factors(grad_n, grad_m, row, column, weight, eps1, rows), (value_sum / param.numel()).sqrt()


def update_square_sum(grad: Tensor, factor_n: Tensor, factor_m: Tensor) -> Tensor:
    """Sum of the squares of the update."""
    return ((grad.to(factor_m.dtype) * factor_m).square().sum(1) * factor_n.square()).sum()


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


def _row_pieces(param: Tensor, *others: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """Slices of all tensors (of None, None) along the rows of param."""
    tensors = [param, *(t for t in others if t is not None)]
    for piece in cache_pieces(*([t] for t in tensors)):
        taken = iter([part[0] for part in piece])
        yield tuple(None if t is None else next(taken) for t in (param, *others))


def adafactor_passes(
    param: Tensor, grad: Tensor, state: dict[str, Tensor], rounding: Rounding, options: dict[str, Any], compiled: bool
) -> None:
    """`adafactor_update` for a contiguous (n, m) matrix, in place; `options` are its keyword arguments."""
    rows, _ = options["dims"]
    eps1, eps2 = options["eps"]
    compensation, momentum = state.get("compensation"), state.get("momentum")
    weight = torch.full((), 1 - options["beta2"], dtype=compute_dtype(param), device=param.device)
    moments = (state["row"], state["column"], weight, eps1, rows)
    clip = options["clip_threshold"]
    square_sum = None
    if compiled:
        factor_n, factor_m, rms = fused(moments_pass)(param, grad, compensation, *moments)
        if clip is not None:
            square_sum = fused(update_square_sum)(grad, factor_n, factor_m)
    else:
        parts = [square_sums(*piece) for piece in _row_pieces(param, grad, compensation)]
        grads_n, grads_m, values = zip(*parts, strict=True)
        factor_n, factor_m = factors(torch.cat(grads_n), torch.stack(grads_m).sum(0), *moments)
        rms = (torch.stack(values).sum() / param.numel()).sqrt()
        if clip is not None:
            sums = [update_square_sum(*piece, factor_m) for piece in _row_pieces(grad, factor_n)]
            square_sum = torch.stack(sums).sum()
    scale = rms.clamp_min(eps2) if options["scale_parameter"] else torch.ones_like(rms)
    decay = (scale if options["scale_weight_decay"] else torch.ones_like(rms)) * (
        options["lr"] * options["weight_decay"]
    )
    if square_sum is not None:
        factor_n = factor_n / ((square_sum / param.numel()).sqrt() / clip).clamp_min(1.0)
    rest = (factor_m, scale * options["lr"], decay, options["beta1"], options["momentum_on"] == "step")
    if compiled:
        fused(store)(param, grad, momentum, compensation, rounding, factor_n, *rest)
        return
    for *tensors, piece_n in _row_pieces(param, grad, momentum, compensation, factor_n):
        store(*tensors, rounding, piece_n, *rest)
