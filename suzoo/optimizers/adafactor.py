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

from suzoo.optimizers._adafactor_passes import compiled_passes, passes_in_pieces
from suzoo.optimizers._rule import Call, RuleOptimizer
from suzoo.optimizers._tensors import (
    Rounding,
    chunk_size,
    compute_dtype,
    full,
    gradient_of,
    mean,
    read,
    root_mean_square,
    write,
)

MOMENTS = ("row", "column", "second_moment", "momentum")
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
    moments: dict[str, Tensor],
    *,
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
) -> tuple[Tensor, dict[str, Tensor]]:
    """New parameter and moments ("row" and "column", or "second_moment"; "momentum" when beta1 > 0).

    Works on sharded tensors too. `beta2` is that of this step, 1 - t^-0.8; `dims` as `factored_dims` gives them.
    """
    eps1, eps2 = eps
    squared = grad.square() + eps1
    new = {}
    if dims is None:
        # v ← β2 v + (1 - β2) (g² + ε1)
        new["second_moment"] = moments["second_moment"].lerp(squared, 1 - beta2)
        update = grad * new["second_moment"].rsqrt()
    else:
        rows, columns = dims
        # R and C: means over the columns and over the rows
        new["row"] = moments["row"].lerp(mean(squared, columns), 1 - beta2)
        new["column"] = moments["column"].lerp(mean(squared, rows), 1 - beta2)
        # u = g / √v with v = R C / mean(R)
        update = grad * (new["row"] / mean(new["row"], rows)).rsqrt() * new["column"].rsqrt()
    # u ← u / max(1, RMS(u) / d)
    if clip_threshold is not None:
        update = update / (root_mean_square(update) / clip_threshold).clamp_min(1.0)
    if beta1 and momentum_on == "update":
        update = new["momentum"] = moments["momentum"].lerp(update, 1 - beta1)
    # α_t max(ε2, RMS(θ)) u
    scale = root_mean_square(param).clamp_min(eps2) if scale_parameter else 1.0
    step = update * (scale * lr)
    if beta1 and momentum_on == "step":
        step = new["momentum"] = moments["momentum"].lerp(step, 1 - beta1)
    decay = param * (lr * weight_decay * (scale if scale_weight_decay else 1.0))
    return param - decay - step, new


def adafactor_apply(
    param: Tensor, grad: Tensor, state: dict[str, Tensor], rounding: Rounding, options: dict[str, Any]
) -> None:
    """`adafactor_update` on one parameter, in place."""
    dtype = compute_dtype(param)
    compensation = state.get("compensation")
    moments = {name: state[name].to(dtype) for name in MOMENTS if name in state}
    new_value, new_moments = adafactor_update(read(param, compensation), grad.to(dtype), moments, **options)
    for name, value in new_moments.items():
        state[name].copy_(value)
    write(param, new_value, compensation, rounding)


def adafactor_update_foreach(
    params: list[Tensor],
    grads: list[Tensor],
    second_moments: list[Tensor],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: tuple[float, float],
    clip_threshold: float | None,
    scale_parameter: bool,
    weight_decay: float,
    dims: None,
    momentum_on: MomentumOn,
    scale_weight_decay: bool,
) -> None:
    """`adafactor_update` on lists of parameters that are not factored and have no momentum, in place."""
    assert dims is None and beta1 == 0
    squares = torch._foreach_mul(grads, grads)
    torch._foreach_add_(squares, eps[0])
    torch._foreach_lerp_(second_moments, squares, 1 - beta2)
    updates = torch._foreach_div(grads, torch._foreach_sqrt(second_moments))
    sizes = torch.tensor([param.numel() for param in params], dtype=params[0].dtype).sqrt().to(params[0].device)
    scales = torch.ones_like(sizes)
    if scale_parameter:
        scales = (torch.stack(torch._foreach_norm(params)) / sizes).clamp_min(eps[1])
    rates = lr * scales
    decays = (rates if scale_weight_decay else lr * torch.ones_like(rates)) * weight_decay
    if clip_threshold is not None:
        rates = rates / (torch.stack(torch._foreach_norm(updates)) / sizes / clip_threshold).clamp_min(1.0)
    torch._foreach_mul_(updates, rates.unbind())
    if weight_decay:
        torch._foreach_mul_(params, (1 - decays).unbind())
    torch._foreach_sub_(params, updates)


class AdaFactor(RuleOptimizer):
    """AdaFactor.

    Args:
        params: parameters or groups. Options may differ by group; `{"factor": "none"}` is advisable for embeddings,
            because a row seen for the first time at step t takes a step t^0.4 too large and clipping then slows all
            other rows.
        lr: relative rate: with scale_parameter the step of a matrix has the RMS lr * RMS(matrix). None is the paper's
            min(1e-2, 1/√t) (times 0.05 without scale_parameter), and the group's "lr" is then a factor of it, 1 at
            first, so a schedule works in both cases.
        beta1: momentum, 0 for none. Without it AdaFactor saves memory but converges slower.
        decay_rate: c in β2 = 1 - t^-c.
        beta2_cap: upper bound of that β2.
        eps: (added to the squared gradient, least RMS of a parameter).
        clip_threshold: d, the largest RMS of an update; None is off.
        scale_parameter: multiply the rate by max(eps[1], RMS(θ)).
        weight_decay: decoupled: θ shrinks by lr * weight_decay, with scale_weight_decay also times RMS(θ).
        factor: which two dimensions of a tensor are rows and columns: the two "largest", the "last" two, or "none".
        min_dim_size_to_factor: keep the second moment whole when one of the two is smaller.
        momentum_on: average the clipped "update" (bojone, BigVision) or the whole "step" (mesh, transformers).
        rounding: see `RuleOptimizer`. momentum_dtype: see `Lion`.
        foreach: multi-tensor kernels for vectors without momentum; off only with False. compile: three passes for each
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
            "scale_weight_decay": True,
        },
        # big_vision's scale_by_adafactor: an Adam replacement, so lr is absolute
        "bigvision": {
            "lr": 1e-3, "beta1": 0.9, "beta2_cap": 0.999, "clip_threshold": None, "scale_parameter": False,
            "min_dim_size_to_factor": 32, "momentum_dtype": torch.bfloat16,
        },
    }  # fmt: skip
    _needs_matrices = True

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
            {
                "lr": 1.0 if lr is None else lr, "relative_step": lr is None, "beta1": beta1, "decay_rate": decay_rate,
                "beta2_cap": beta2_cap, "eps": eps, "clip_threshold": clip_threshold,
                "scale_parameter": scale_parameter, "weight_decay": weight_decay,
                "scale_weight_decay": scale_weight_decay, "factor": factor,
                "min_dim_size_to_factor": min_dim_size_to_factor, "momentum_on": momentum_on,
            },
            rounding=rounding,
            momentum_dtype=momentum_dtype,
            foreach=foreach,
            compile=compile,
        )  # fmt: skip

    def _check_options(self, options: dict[str, Any]) -> None:
        super()._check_options(options)
        decay_rate, beta2_cap, eps = options["decay_rate"], options["beta2_cap"], options["eps"]
        if not 0 <= options["beta1"] < 1:
            raise ValueError(f"beta1 must be in [0, 1), not {options['beta1']}")
        if not (decay_rate > 0 and 0 < beta2_cap <= 1):
            raise ValueError(f"decay_rate must be positive and beta2_cap in (0, 1], not {decay_rate} and {beta2_cap}")
        if not (eps[0] >= 1e-37 and eps[1] >= 0):
            raise ValueError(f"eps must be (at least 1e-37, at least 0), not {eps}; an eps[0] of 0 gives 0 / 0")
        if options["clip_threshold"] is not None and not options["clip_threshold"] > 0:
            raise ValueError(f"clip_threshold must be positive or None, not {options['clip_threshold']}")
        if options["momentum_on"] not in ("update", "step"):
            raise ValueError(f"momentum_on must be 'update' or 'step', not {options['momentum_on']!r}")
        if options["factor"] not in ("largest", "last", "none"):
            raise ValueError(f"factor must be 'largest', 'last' or 'none', not {options['factor']!r}")

    def _slowest_beta(self, options: dict[str, Any]) -> float:
        return options["beta1"]

    def _new_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        dtype = compute_dtype(param)
        like = torch.zeros_like(param, dtype=dtype)
        dims = factored_dims(tuple(param.shape), group["factor"], group["min_dim_size_to_factor"])
        if dims is None:
            state = {"second_moment": like}
        else:
            # sums of zeros: for a sharded parameter they have the sharding that the sums of its squares will have
            rows, columns = dims
            state = {
                "row": full(like.sum(columns, keepdim=True)),
                "column": full(like.sum(rows, keepdim=True)),
            }
        if group["beta1"]:
            state["momentum"] = torch.zeros_like(param, dtype=self._momentum_dtype(group, param))
        return state

    def _options(self, group: dict[str, Any], param: Tensor) -> dict[str, Any]:
        t = float(self.state[param]["step"])
        lr = group["lr"]
        if group["relative_step"]:
            lr *= min(1e-2, 1 / math.sqrt(t)) * (1.0 if group["scale_parameter"] else 0.05)
        names = ("beta1", "clip_threshold", "scale_parameter", "weight_decay", "momentum_on")
        return {
            **{name: group[name] for name in names},
            "lr": lr,
            "eps": tuple(group["eps"]),  # a list after a JSON checkpoint
            "beta2": min(group["beta2_cap"], 1 - t ** -group["decay_rate"]),
            "dims": factored_dims(tuple(param.shape), group["factor"], group["min_dim_size_to_factor"]),
            "scale_weight_decay": group["scale_weight_decay"],
        }

    def _is_matrix(self, param: Tensor, options: dict[str, Any]) -> bool:
        """True when the passes over a whole matrix can update it."""
        factored = not isinstance(param, DTensor) and param.dim() == 2 and options["dims"] is not None
        return factored and param.is_contiguous() and gradient_of(param).is_contiguous()

    def _compiled_calls(self, group: dict[str, Any], params: list[Tensor]) -> dict[Tensor, Call]:
        calls: dict[Tensor, Call] = {}
        for param in params:
            if not self._compiles(group, param):
                continue
            options, grad, state = self._options(group, param), gradient_of(param), self.state[param]
            if self._is_matrix(param, options):
                square_sum = self._square_sum(param, by_rows=True)
                calls[param] = compiled_passes(param.detach(), grad, state, square_sum, group["rounding"], options)
        return calls

    def _update_params(self, group: dict[str, Any], params: list[Tensor], calls: dict[Tensor, Call]) -> None:
        together: dict[tuple, list[Tensor]] = {}
        for param in params:
            if param in calls:
                continue
            options = self._options(group, param)
            state, grad = self.state[param], gradient_of(param)
            if self._is_matrix(param, options) and not param.is_cuda and param.numel() > chunk_size():
                passes_in_pieces(param.detach(), grad, state, group["rounding"], options)
            elif self._foreach_can(group, param):
                together.setdefault((param.dtype, param.device, *options.values()), []).append(param)
            else:
                adafactor_apply(param.detach(), grad, state, group["rounding"], options)
        for bucket in together.values():
            adafactor_update_foreach(
                bucket,
                [gradient_of(p) for p in bucket],
                [self.state[p]["second_moment"] for p in bucket],
                **self._options(group, bucket[0]),
            )
        self._run(calls)

    def _foreach_can(self, group: dict[str, Any], param: Tensor) -> bool:
        wanted = group["foreach"] is not False
        one_dtype = param.dtype == gradient_of(param).dtype == compute_dtype(param)
        whole = "second_moment" in self.state[param] and not isinstance(param, DTensor)
        return wanted and one_dtype and whole and not group["beta1"] and param.numel() > 0
