"""AdaFactor's update of large matrices in three passes over memory, compiled or in pieces that stay in the cache.

Written as one expression, the update makes a dozen matrices, and compiled so it sums over columns with strided reads.
Here the sums over columns (in blocks of rows), the sums over rows with the norm of the update, and the new value are
separate passes, and no matrix is stored but the parameter. Only the first pass waits for the memory, if the gradient
fits in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from suzoo.optimizers._compiled import scalar, stored
from suzoo.optimizers._rule import Job, Kernel
from suzoo.optimizers._tensors import Rounding, cache_pieces, compute_dtype, read, write

BLOCK = 8  # rows


def column_sums(squares: Tensor) -> Tensor:
    """(n, m) summed over rows, as a tree whose every level reads blocks of neighboring rows."""
    rest = []
    while len(squares) > BLOCK:
        whole = len(squares) // BLOCK * BLOCK
        if whole < len(squares):
            rest.append(squares[whole:].sum(0))
        squares = squares[:whole].view(-1, BLOCK, squares.shape[1]).sum(1)
    return sum(rest, squares.sum(0))


def row_sums(grad: Tensor, factor_m: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) sums of g² and of (g factor_m)² over columns; the norm of the update needs no pass of its own."""
    grad = grad.to(factor_m.dtype)
    return grad.square().sum(1), (grad * factor_m).square().sum(1)


def factor(sums: Tensor, count: int, moment: Tensor, weight: Tensor, eps1: float, is_row: bool) -> Tensor:
    """Update a moment in place; the factor of the gradient that it makes: 1/√(R / mean R) or 1/√C."""
    new = moment.lerp((sums / count + eps1).view_as(moment), weight)
    moment.copy_(new)
    return (new / new.mean() if is_row else new).rsqrt().flatten()


def rates(
    factor_n: Tensor, update_sum: Tensor, param_sum: Tensor, numel: int, lr: Any, decay: Any, options: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """The clipped factor of the rows, the rate and the decay, from Σu² and Σθ²."""
    rms = (param_sum / numel).sqrt()
    scale = rms.clamp_min(options["eps"][1]) if options["scale_parameter"] else torch.ones_like(rms)
    if options["clip_threshold"] is not None:
        factor_n = factor_n / ((update_sum / numel).sqrt() / options["clip_threshold"]).clamp_min(1.0)
    return factor_n, scale * lr, (scale if options["scale_weight_decay"] else torch.ones_like(rms)) * decay


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


# --- compiled


def adafactor_kernel(
    param: Tensor,
    grad: Tensor,
    momentum: Tensor | None,
    compensation: Tensor | None,
    moment_n: Tensor,
    moment_m: Tensor,
    square_sum: Tensor,
    weight: Tensor,
    lr: Tensor,
    decay: Tensor,
    *,
    rows: int,
    rounding: Rounding,
    **options: Any,
) -> None:
    """The three passes; `square_sum`, (n, 1), is that of the weights and becomes that of the new ones."""
    eps1 = options["eps"][0]
    column_squares = column_sums(grad.to(moment_m.dtype).square())
    factor_m = stored(factor(column_squares, len(grad), moment_m, weight, eps1, rows == 1))
    grad_n, update_n = row_sums(grad, factor_m)
    factor_n = factor(grad_n, grad.shape[1], moment_n, weight, eps1, rows == 0)
    update_sum = (update_n * factor_n.square()).sum()
    clipped = rates(factor_n, update_sum, square_sum.sum(), grad.numel(), lr, decay, options)
    factor_n, rate, decay = (stored(tensor) for tensor in clipped)
    last = (rate, decay, options["beta1"], options["momentum_on"] == "step")
    store(param, grad, momentum, compensation, rounding, factor_n, factor_m, *last)
    square_sum.copy_(read(param, compensation).square().sum(1, keepdim=True))


def _moments(state: dict[str, Tensor], rows: int) -> tuple[Tensor, Tensor]:
    """Those of dimension 0 and of dimension 1; the state called "row" may belong to either."""
    return (state["row"], state["column"]) if rows == 0 else (state["column"], state["row"])


def _scalars(param: Tensor, options: dict[str, Any]) -> tuple[list[Tensor], dict[str, Any]]:
    """(new weight of the moments, lr, decay per step) as tensors, so that no value is compiled in; and the rest."""
    numbers = (1 - options["beta2"], options["lr"], options["lr"] * options["weight_decay"])
    rest = {name: value for name, value in options.items() if name not in ("beta2", "lr", "weight_decay", "dims")}
    return [scalar(value, compute_dtype(param), param.device) for value in numbers], rest


def kernel_of_passes(job: Job, square_sum: Tensor) -> Kernel:
    """What makes `adafactor_update` for a contiguous (n, m) matrix, in place; `square_sum`, (n, 1), see above."""
    rows, _ = job.arguments["dims"]
    numbers, rest = _scalars(job.param, job.arguments)
    value, grad, state = job.param.detach(), job.grad, job.state
    return Kernel(
        adafactor_kernel,
        (value, grad, state.get("momentum"), state.get("compensation"), *_moments(state, rows), square_sum, *numbers),
        {"rows": rows, "rounding": job.group["rounding"], **rest},
        square_sum=True,
    )


# --- in pieces


def _row_pieces(param: Tensor, *others: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """Slices of all tensors (of None, None) along the rows of param."""
    tensors = [param, *(t for t in others if t is not None)]
    for piece in cache_pieces(*([t] for t in tensors)):
        taken = iter([part[0] for part in piece])
        yield tuple(None if t is None else next(taken) for t in (param, *others))


def passes_in_pieces(
    param: Tensor, grad: Tensor, state: dict[str, Tensor], rounding: Rounding, options: dict[str, Any]
) -> None:
    """`adafactor_update` for a contiguous (n, m) matrix, in place; `options` are its keyword arguments."""
    rows, _ = options["dims"]
    n, m = param.shape
    (weight, lr, decay), rest = _scalars(param, options)
    eps1, compensation, momentum = options["eps"][0], state.get("compensation"), state.get("momentum")
    moment_n, moment_m = _moments(state, rows)
    grad_m, param_sum = torch.zeros_like(moment_m), torch.zeros_like(weight)
    for piece, value, low in _row_pieces(grad, param, compensation):
        grad_m += piece.to(grad_m.dtype).square().sum(0)
        param_sum += read(value, low).square().sum()
    factor_m = factor(grad_m, n, moment_m, weight, eps1, rows == 1)
    parts = [row_sums(piece, factor_m) for (piece,) in _row_pieces(grad)]
    grad_n, update_n = (torch.cat(column) for column in zip(*parts, strict=True))
    factor_n = factor(grad_n, m, moment_n, weight, eps1, rows == 0)
    update_sum = (update_n * factor_n.square()).sum()
    factor_n, rate, decay = rates(factor_n, update_sum, param_sum, param.numel(), lr, decay, rest)
    last = (factor_m, rate, decay, options["beta1"], options["momentum_on"] == "step")
    for *tensors, piece_n in _row_pieces(param, grad, momentum, compensation, factor_n):
        store(*tensors, rounding, piece_n, *last)
