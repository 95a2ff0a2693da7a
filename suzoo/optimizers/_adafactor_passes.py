"""AdaFactor's update of large matrices in three passes over memory, compiled or in pieces that stay in the cache.

Written as one expression, the update makes a dozen matrices, and compiled so it sums over columns with strided reads.
Here the sums over columns (in blocks of rows), the sums over rows with the norm of the update, and the new value are
separate passes, and no matrix is stored but the parameter. Only the first pass waits for the memory, if the gradient
fits in the cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from suzoo.optimizers._compiled import scalar, stored
from suzoo.optimizers._rule import Job, Work
from suzoo.optimizers._tensors import compute_dtype, named_pieces, read, write

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
    factor_n: Tensor,
    momentum: Tensor | None = None,
    compensation: Tensor | None = None,
    *,
    factor_m: Tensor,
    rate: Tensor,
    decay: Tensor,
    options: dict[str, Any],
) -> None:
    """θ ← (1 - decay) θ - rate · factor_n g factor_m, with the momentum on the update or on the whole step."""
    value = read(param, compensation)
    update = grad.to(value.dtype) * (factor_n.unsqueeze(1) * factor_m)
    if momentum is None:
        step = update * rate
    else:
        on_step = options["momentum_on"] == "step"
        new = momentum.to(value.dtype).lerp(update * rate if on_step else update, 1 - options["beta1"])
        momentum.copy_(new)
        step = new if on_step else new * rate
    write(param, value - value * decay - step, compensation, options["rounding"])


# --- compiled


def adafactor_kernel(
    param: Tensor,
    grad: Tensor,
    moment_n: Tensor,
    moment_m: Tensor,
    weight: Tensor,
    lr: Tensor,
    decay: Tensor,
    square_sum: Tensor,
    momentum: Tensor | None = None,
    compensation: Tensor | None = None,
    *,
    rows: int,
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
    store(param, grad, factor_n, momentum, compensation, factor_m=factor_m, rate=rate, decay=decay, options=options)
    square_sum.copy_(read(param, compensation).square().sum(1, keepdim=True))


def passes_of(job: Job) -> Work:
    """What makes `adafactor_update` of a contiguous (n, m) matrix, but for the sum of its squares."""
    tensors, options = job.tensors, dict(job.arguments)
    beta2, lr, weight_decay, dims = (options.pop(name) for name in ("beta2", "lr", "weight_decay", "dims"))
    row, column = tensors.pop("row"), tensors.pop("column")
    # of dimension 0 and of dimension 1; the state called "row" may belong to either
    tensors["moment_n"], tensors["moment_m"] = (row, column) if dims[0] == 0 else (column, row)
    for name, value in {"weight": 1 - beta2, "lr": lr, "decay": lr * weight_decay}.items():
        tensors[name] = scalar(value, compute_dtype(job.param), job.param.device)
    return Work(adafactor_kernel, tensors, {"rows": dims[0], "rounding": job.group["rounding"], **options})


def kernel_of_passes(job: Job) -> Work:
    work = passes_of(job)
    work.tensors["square_sum"] = job.sums.of(job.param, work.tensors.get("compensation"), job.param.shape)
    return work


# --- in pieces


def passes_in_pieces(job: Job) -> None:
    """The same without a compiler."""
    tensors, options = passes_of(job)[1:3]
    weight, lr, decay, moment_n, moment_m = (tensors.pop(n) for n in ("weight", "lr", "decay", "moment_n", "moment_m"))
    (n, m), eps1, rows = job.param.shape, options["eps"][0], options["rows"]
    grad_m, param_sum = torch.zeros_like(moment_m), torch.zeros_like(weight)
    for piece in named_pieces(tensors):
        grad_m += piece["grad"].to(grad_m.dtype).square().sum(0)
        param_sum += read(piece["param"], piece.get("compensation")).square().sum()
    factor_m = factor(grad_m, n, moment_m, weight, eps1, rows == 1)
    parts = [row_sums(piece["grad"], factor_m) for piece in named_pieces({"grad": tensors["grad"]})]
    grad_n, update_n = (torch.cat(column) for column in zip(*parts, strict=True))
    factor_n = factor(grad_n, m, moment_n, weight, eps1, rows == 0)
    update_sum = (update_n * factor_n.square()).sum()
    factor_n, rate, decay = rates(factor_n, update_sum, param_sum, job.param.numel(), lr, decay, options)
    for piece in named_pieces({**tensors, "factor_n": factor_n}):
        store(**piece, factor_m=factor_m, rate=rate, decay=decay, options=options)
