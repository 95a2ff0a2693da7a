"""AdaFactor: Adam without momentum, whose second moment of a matrix is a column times a row.

Source: Shazeer and Stern 2018, arXiv 1804.04235; Su, kexue.fm/archives/7302, github.com/bojone/adafactor. The defaults
are bojone's; `AdaFactor.PRESETS` has the other conventions.

The second moment is applied as two factors, 1/√(R / mean R) and 1/√C: the product R C of the article underflows float32
when a gradient is zero, and the weights become NaN.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import ParamsT

from suzoo.optimizers._adafactor_passes import kernel_of_passes, passes_in_pieces
from suzoo.optimizers._driver import RuleOptimizer
from suzoo.optimizers._options import (
    BELOW_1,
    COUNT,
    FLAG,
    MOMENTUM_DTYPE,
    NOT_NEGATIVE,
    POSITIVE,
    check_bfloat16_momentum,
    number,
    one_of,
    optional,
    pair,
)
from suzoo.optimizers._rule import Group, Job, Rule, apply_update, momentum_dtype
from suzoo.optimizers._tensors import Rounding, cache_size, compute_dtype, full, mean, root_mean_square

Factor = Literal["largest", "last", "none"]
MomentumOn = Literal["update", "step"]


def factored_dims(shape: tuple[int, ...], factor: Factor, min_dim_size: int) -> tuple[int, int] | None:
    """(dimension of the rows, dimension of the columns), or None when the second moment is kept whole."""
    if factor == "none" or len(shape) < 2:
        return None
    if factor == "last":
        rows, columns = len(shape) - 2, len(shape) - 1
    else:
        rows, columns = sorted(range(len(shape)), key=lambda dim: shape[dim])[-2:]
    return None if min(shape[rows], shape[columns]) < min_dim_size else (rows, columns)


def adafactor_update(
    param: Tensor,
    grad: Tensor,
    *moments: Tensor,
    lr: float | Tensor,
    beta1: float,
    beta2: float | Tensor,
    eps: tuple[float, float],
    clip_threshold: float | None,
    scale_parameter: bool,
    weight_decay: float | Tensor,
    dims: tuple[int, int] | None,
    momentum_on: MomentumOn,
    scale_weight_decay: bool,
) -> tuple[Tensor, ...]:
    """New parameter and moments (row and column, or the second moment; the momentum behind them, if there is one).

    Works on sharded tensors too. `beta2` is that of this step, 1 - t^-0.8; `dims` as `factored_dims` gives them.
    """
    eps1, eps2 = eps
    squared = grad.square() + eps1
    if dims is None:
        # v ← β2 v + (1 - β2) (g² + ε1)
        second_moment, *momentum = moments
        new = [second_moment.lerp(squared, 1 - beta2)]
        update = grad * new[0].rsqrt()
    else:
        rows, columns = dims
        row, column, *momentum = moments
        # R and C: means over the columns and over the rows
        new = [row.lerp(mean(squared, columns), 1 - beta2), column.lerp(mean(squared, rows), 1 - beta2)]
        # u = g / √v with v = R C / mean(R)
        update = grad * (new[0] / mean(new[0], rows)).rsqrt() * new[1].rsqrt()
    # u ← u / max(1, RMS(u) / d)
    if clip_threshold is not None:
        update = update / (root_mean_square(update) / clip_threshold).clamp_min(1.0)
    if momentum and momentum_on == "update":
        update = momentum[0].lerp(update, 1 - beta1)
        new.append(update)
    # α_t max(ε2, RMS(θ)) u
    scale = root_mean_square(param).clamp_min(eps2) if scale_parameter else 1.0
    step = update * (scale * lr)
    if momentum and momentum_on == "step":
        step = momentum[0].lerp(step, 1 - beta1)
        new.append(step)
    decay = param * (lr * weight_decay * (scale if scale_weight_decay else 1.0))
    return param - decay - step, *new


def _derived(group: Group, dims: tuple[int, int] | None, step: float) -> dict[str, Any]:
    lr = group["lr"]
    if group["relative_step"]:
        lr *= min(1e-2, 1 / math.sqrt(step)) * (1.0 if group["scale_parameter"] else group["relative_scale"])
    return {
        "lr": lr,
        "eps": tuple(group["eps"]),  # a list after a JSON checkpoint
        "beta2": min(group["beta2_cap"], 1 - step ** -group["decay_rate"]),
        "dims": dims,
    }


def _new_state(param: Tensor, group: Group, dims: tuple[int, int] | None) -> dict[str, Tensor]:
    like = torch.zeros_like(param, dtype=compute_dtype(param))
    if dims is None:
        state = {"second_moment": like}
    else:
        # sums of zeros: for a sharded parameter they have the sharding that the sums of its squares will have
        rows, columns = dims
        state = {"row": full(like.sum(columns, keepdim=True)), "column": full(like.sum(rows, keepdim=True))}
    if group["beta1"]:
        state["momentum"] = torch.zeros_like(param, dtype=momentum_dtype(group, param))
    return state


def _is_matrix(job: Job) -> bool:
    """True when the passes over a whole matrix can update it."""
    param, grad = job.param, job.grad
    assert grad is not None
    factored = not isinstance(param, DTensor) and param.dim() == 2 and job.kind is not None
    return factored and param.is_contiguous() and grad.is_contiguous()


def _apply(job: Job) -> None:
    if _is_matrix(job) and job.param.device.type == "cpu" and job.param.numel() > cache_size():
        passes_in_pieces(job)
    else:
        # whole, and as a DTensor where it is sharded: the sums go over the shards
        apply_update(**job.tensors, **job.manner, **job.arguments)


class AdaFactor(RuleOptimizer):
    """AdaFactor.

    Args:
        params: parameters or groups. Options may differ by group; `{"factor": "none"}` is advisable for embeddings,
            because a row seen for the first time at step t takes a step t^0.4 too large and clipping then slows all
            other rows.
        lr: relative rate: with scale_parameter the step of a matrix has the RMS lr * RMS(matrix). None is the paper's
            min(1e-2, 1/√t) (times relative_scale without scale_parameter), and the group's "lr" is then a factor of
            it, 1 at first, so a schedule works in both cases.
        beta1: momentum, 0 for none. Without it AdaFactor saves memory but converges slower.
        decay_rate: c in β2 = 1 - t^-c.
        beta2_cap: upper bound of that β2.
        eps: (added to the squared gradient, least RMS of a parameter).
        clip_threshold: d, the largest RMS of an update; None is off.
        relative_scale: with lr=None and without scale_parameter, the typical size of the weights: 0.05 of the authors'
            code, 1 of transformers.
        scale_parameter: multiply the rate by max(eps[1], RMS(θ)).
        weight_decay: decoupled: θ shrinks by lr * weight_decay, with scale_weight_decay also times RMS(θ).
        factor: which two dimensions of a tensor are rows and columns: the two "largest", the "last" two, or "none".
        min_dim_size_to_factor: keep the second moment whole when one of the two is smaller.
        momentum_on: average the clipped "update" (bojone, BigVision) or the whole "step" (mesh, transformers).
        rounding: see `RuleOptimizer`. momentum_dtype: see `Lion`.
        foreach: small tensors of one shape are updated together; off only with False. compile: three passes for each
            large matrix (see `_adafactor_passes`).

    Raises:
        ValueError: an option out of range.
        RuntimeError: at `step`, a flat parameter (FSDP1, DeepSpeed ZeRO), which cannot be factored.

    State of an (n, m) matrix: n + m floats, without momentum.
    """

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"lr": None, "factor": "last", "min_dim_size_to_factor": 1},
        "bojone": {"lr": 1e-3},
        # transformers.Adafactor; with lr=None its relative_step=True
        "hf": {
            "lr": 1e-3, "factor": "last", "min_dim_size_to_factor": 1, "momentum_on": "step",
            "scale_weight_decay": True, "relative_scale": 1.0,
        },
        # big_vision's scale_by_adafactor: an Adam replacement, so lr is absolute
        "bigvision": {
            "lr": 1e-3, "beta1": 0.9, "beta2_cap": 0.999, "clip_threshold": None, "scale_parameter": False,
            "min_dim_size_to_factor": 32, "momentum_dtype": torch.bfloat16,
        },
    }  # fmt: skip
    rule = Rule(
        update=adafactor_update,
        states=("row", "column", "second_moment", "momentum"),
        options={
            "beta1": BELOW_1,
            "decay_rate": POSITIVE,
            "beta2_cap": number("a number in (0, 1]", lambda v: 0 < v <= 1),
            "eps": pair(
                "(at least 1e-37, at least 0): an eps[0] of 0 gives 0 / 0",
                number("at least 1e-37", lambda v: 1e-37 <= v < math.inf),
                NOT_NEGATIVE,
            ),
            "clip_threshold": optional(POSITIVE),
            "relative_step": FLAG,
            "relative_scale": POSITIVE,
            "scale_parameter": FLAG,
            "scale_weight_decay": FLAG,
            "factor": one_of("largest", "last", "none"),
            "min_dim_size_to_factor": COUNT,
            "momentum_on": one_of("update", "step"),
            "momentum_dtype": MOMENTUM_DTYPE,
        },
        check=lambda options: check_bfloat16_momentum(options, options["beta1"]),
        kind=lambda group, param: factored_dims(tuple(param.shape), group["factor"], group["min_dim_size_to_factor"]),
        derived=_derived,
        new_state=_new_state,
        stack_up_to=1 << 14,  # a larger tensor's arithmetic costs more than its calls
        apply=_apply,
        kernel=lambda job: kernel_of_passes(job) if _is_matrix(job) else None,
        needs_matrices=True,
    )

    def __init__(
        self,
        params: ParamsT,
        lr: float | None = 1e-3,
        beta1: float = 0.0,
        *,
        decay_rate: float = 0.8,
        beta2_cap: float = 1.0,
        eps: tuple[float, float] = (1e-30, 1e-3),
        clip_threshold: float | None = 1.0,
        relative_scale: float = 0.05,
        scale_parameter: bool = True,
        weight_decay: float = 0.0,
        scale_weight_decay: bool = False,
        factor: Factor = "largest",
        min_dim_size_to_factor: int = 128,
        momentum_on: MomentumOn = "update",
        rounding: Rounding = "nearest",
        momentum_dtype: torch.dtype | None = None,
        foreach: bool | None = None,
        compile: bool = False,
    ):
        super().__init__(
            params,
            lr=1.0 if lr is None else lr,
            relative_step=lr is None,
            relative_scale=relative_scale,
            beta1=beta1,
            decay_rate=decay_rate,
            beta2_cap=beta2_cap,
            eps=eps,
            clip_threshold=clip_threshold,
            scale_parameter=scale_parameter,
            weight_decay=weight_decay,
            scale_weight_decay=scale_weight_decay,
            factor=factor,
            min_dim_size_to_factor=min_dim_size_to_factor,
            momentum_on=momentum_on,
            rounding=rounding,
            momentum_dtype=momentum_dtype,
            foreach=foreach,
            compile=compile,
        )
