"""Tiger: the sign of the momentum, with a step proportional to the size of the weights.

Source: Su, kexue.fm/archives/9512, github.com/bojone/tiger. One state of the parameters' size, which also accumulates.

Departures from the author's code: kinds of parameters come from modules instead of names. Infinite gradients are
caught like NaN, and the decision is taken for a whole sharded matrix. Inside a window the shrinking waits for the
window's end. The window's decay happens at its first finite gradient; his is lost when the first micro-gradient is
bad.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import ParamsT

from suzoo.optimizers._compiled import flat_shape, stored, warn
from suzoo.optimizers._driver import RuleOptimizer
from suzoo.optimizers._options import BELOW_1, COUNT, MOMENTUM_DTYPE, NOT_NEGATIVE, check_bfloat16_momentum, number
from suzoo.optimizers._rule import Group, Job, Rule, momentum_dtype
from suzoo.optimizers._tensors import Rounding, cache_pieces, compute_dtype, full, lerp, local, read, root_mean_square
from suzoo.optimizers.param_groups import KINDS, SHAPED


def tiger_rms(param: Tensor, kind: str) -> Tensor:
    """RMS of the weights: of a whole matrix (0-d), or of every row of an embedding (..., 1)."""
    if kind == "embedding":
        return full(torch.linalg.vector_norm(param, dim=-1, keepdim=True)) / param.shape[-1] ** 0.5
    return root_mean_square(param)


def all_finite(grad: Tensor) -> Tensor:
    """0-d: True when the gradient has neither NaN nor infinity on any shard."""
    # one pass without a temporary; a sum of finite numbers overflows float32 only where training has exploded
    return full(grad.sum(dtype=compute_dtype(grad))).isfinite()


def tiger_step(
    param: Tensor,
    momentum: Tensor,
    rms: Tensor | None,
    *,
    kind: str,
    lr: float | Tensor,
    weight_decay: float | Tensor,
    rms_floor: float,
) -> Tensor:
    """θ - η (sign(m) + λ θ), with η = lr · RMS(θ), and half of lr and no decay for biases and norm weights."""
    if kind not in SHAPED:
        return param - 0.5 * lr * momentum.sign()
    assert rms is not None
    rate = stored(lr * rms.clamp_min(rms_floor))
    return param - rate * (momentum.sign() + weight_decay * param)


def tiger_shrink(param: Tensor, kind: str, ratio: float | Tensor) -> Tensor:
    """θ closer to its neutral value, after gradients that are not finite."""
    center = 1.0 if kind == "norm" else 0.0
    return center + ratio * (param - center)


def tiger_update(
    param: Tensor,
    grad: Tensor,
    momentum: Tensor,
    *,
    kind: str,
    lr: float | Tensor,
    weight: float | Tensor,
    weight_decay: float | Tensor,
    rms_floor: float,
    shrink_ratio: float | Tensor,
    rms: Tensor | None = None,
    square_sum: Tensor | None = None,
    finite: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """New parameter and momentum; `weight` is 1 - β.

    `rms` and `finite` are given when the tensors are a part of the matrix, `square_sum` to a kernel: Σθ² of every row.
    """
    if square_sum is not None:
        # the same for every row of a matrix: a number by itself would keep sums of rows out of the loop over elements
        means = square_sum / param.shape[-1]
        rms = (means if kind == "embedding" else means.mean().expand_as(means)).sqrt()
    elif rms is None and kind in SHAPED:
        rms = tiger_rms(param, kind)
    if finite is None:
        finite = stored(grad.sum(-1).sum().isfinite())
    # m ← β m + (1 - β) g
    new_momentum = lerp(momentum, grad, weight)
    # θ ← θ - η (sign(m) + λ θ)
    new_param = tiger_step(param, new_momentum, rms, kind=kind, lr=lr, weight_decay=weight_decay, rms_floor=rms_floor)
    # a gradient that is not finite leaves m alone
    shrunk = tiger_shrink(param, kind, shrink_ratio)
    return torch.where(finite, new_param, shrunk), torch.where(finite, new_momentum, momentum)


def tiger_move(
    param: Tensor,
    momentum: Tensor,
    *,
    kind: str,
    lr: float | Tensor,
    weight_decay: float | Tensor,
    rms_floor: float,
    rms: Tensor | None,
    num_finite: Tensor,
    shrink: Tensor,
) -> tuple[Tensor, Tensor]:
    """The end of an accumulation window: shrink once for every bad micro-gradient, step if there was a good one."""
    shrunk = tiger_shrink(param, kind, shrink)
    rms = None if rms is None else rms * shrink
    moved = tiger_step(shrunk, momentum, rms, kind=kind, lr=lr, weight_decay=weight_decay, rms_floor=rms_floor)
    return torch.where(num_finite > 0, moved, shrunk), momentum


def tiger_update_foreach(
    params: list[Tensor],
    grads: list[Tensor],
    momenta: list[Tensor],
    *,
    finite: Tensor | None = None,
    **options: Any,
) -> None:
    """`tiger_update` on lists, in place. Without `finite`, waits for the device to see whether gradients are."""
    if finite is None and not bool(torch.stack([grad.sum() for grad in grads]).isfinite().all()):
        for param, grad, momentum in zip(params, grads, momenta, strict=True):
            new_param, new_momentum = tiger_update(param, grad, momentum, **options)
            param.copy_(new_param)
            momentum.copy_(new_momentum)
        return
    kind, lr = options["kind"], options["lr"]
    rates = [[tiger_rms(p, kind).clamp_min(options["rms_floor"]).mul_(lr) for p in params]] if kind in SHAPED else []
    for some_params, some_grads, some_momenta, *some_rates in cache_pieces(params, grads, momenta, *rates):
        torch._foreach_lerp_(some_momenta, some_grads, options["weight"])
        directions = torch._foreach_sign(some_momenta)
        if not some_rates:
            torch._foreach_add_(some_params, directions, alpha=-0.5 * lr)
        else:
            torch._foreach_add_(directions, some_params, alpha=options["weight_decay"])
            torch._foreach_mul_(directions, some_rates[0])
            torch._foreach_sub_(some_params, directions)


def _whole(job: Job, compile: bool) -> dict[str, Any]:
    """What the update must know of the whole matrix when it is run on a piece of it."""
    param, grad, kind, compensation = job.param, job.grad, job.kind, job.state.get("compensation")
    if compile and grad is not None and not isinstance(param, DTensor):
        # a kernel sees all of it: it looks at the gradient by itself, once more when that is in the cache, and sums
        # squares for the next step
        if kind not in SHAPED:
            return {}
        if all([tensor.is_contiguous() for tensor in (param, grad, job.state["momentum"])]):
            shape = param.shape if kind == "embedding" else flat_shape(param.numel())
            return {"square_sum": job.sums.of(param, compensation, shape)}
    rms = local(tiger_rms(read(param, compensation), kind)) if kind in SHAPED else None
    if grad is None:
        num_finite = job.state["num_finite"]
        num_bad = float(job.state["folded"]) - num_finite  # a number of the CPU's: copied, it would be waited for
        shrink = job.group["shrink_ratio"] ** num_bad.to(job.state["momentum"].dtype)
        return {"rms": rms, "num_finite": num_finite, "shrink": shrink}
    finite = job.arguments["finite"]
    return {"rms": rms, "finite": local(all_finite(grad)) if finite is None else finite}


def _fold(job: Job, first: bool) -> None:
    """m ← [(β - 1) χ + 1] m + (1 - β) / k g, for a finite g; χ is 1 at the first finite one of a window."""
    group, grad = job.group, job.grad
    assert grad is not None
    momentum, num_finite = local(job.state["momentum"]), job.state["num_finite"]
    finite = local(all_finite(grad))
    keep = 1 - (1 - group["beta"]) * (num_finite == 0).to(momentum.dtype)
    folded = momentum * keep + local(grad).to(momentum.dtype) * ((1 - group["beta"]) / group["accumulation_steps"])
    momentum.copy_(torch.where(finite, folded, momentum))
    num_finite += finite


def _new_state(param: Tensor, group: Group, kind: str) -> dict[str, Tensor]:
    if kind in SHAPED and param.numel() > 0 and group["rms_floor"] == 0 and not full(param.ne(0).sum()):
        warn(
            f"Tiger will not move an all-zero parameter of shape {(*param.shape,)}, because its step is proportional "
            "to the RMS of the weights; set rms_floor=1e-3"
        )
    return {"momentum": torch.zeros_like(param, dtype=momentum_dtype(group, param))}


def _check(options: Group) -> None:
    check_bfloat16_momentum(options, options["beta"])
    if (kind := options.get("kind")) is not None and kind not in KINDS:
        raise ValueError(f"Tiger: a group's kind must be one of {', '.join(KINDS)}, not {kind!r}")


class Tiger(RuleOptimizer):
    """Tiger (TIGht-fisted optimizER). Pass it `param_groups(model, weight_decay=...)`, which name the kinds.

    Args:
        params: groups with a `kind`: "matrix" steps by lr * RMS(matrix), "embedding" by lr * RMS(row), "bias" and
            "norm" by lr / 2 without decay. A group without `kind` treats tensors of two dimensions or more as matrices
            and the rest as biases, so its embeddings are not recognized; one warning says so.
        lr: relative change per step, 1e-3 to 2e-3 at the peak.
        beta: 0.965 for language, 0.945 for vision.
        weight_decay: decoupled and relative like the step. Groups of kind "bias" and "norm" ignore it, as the author's.
        rms_floor: least RMS. The author's 0 never moves an all-zero matrix (LoRA's B, a zero-initialized head), about
            which one warning is given; 1e-3 is AdaFactor's choice.
        shrink_ratio: a parameter whose gradient has a NaN or infinity shrinks by this factor (norm weights towards 1)
            and its momentum waits. 1 only skips. Who knows already that all gradients are finite, from their norm for
            instance, may set `optimizer.found_inf` to a tensor of 0 around `step`, as `suzoo.engine.fit` does: else a
            step reads them once more.
        accumulation_steps: micro-steps per update, see `RuleOptimizer`.
        free_gradients: fold gradients during backward and free them.
        rounding, foreach, compile: see `RuleOptimizer`.
        momentum_dtype: see `Lion`; float32 when accumulating.

    Raises:
        ValueError: an option out of range, or an unknown kind.
        RuntimeError: at `step`, a group of matrices holds a flat parameter (FSDP1, DeepSpeed ZeRO): the RMS of a slice
            is not that of the matrix.

    GradScaler skips a step that overflowed, as with every optimizer. State: one float per parameter.
    """

    rule = Rule(
        update=tiger_update,
        states=("momentum",),
        options={
            "beta": BELOW_1,
            "rms_floor": NOT_NEGATIVE,
            "shrink_ratio": number("a number in (0, 1]", lambda v: 0 < v <= 1),
            "momentum_dtype": MOMENTUM_DTYPE,
            "accumulation_steps": COUNT,
        },
        check=_check,
        kind=lambda group, param: group.get("kind") or ("matrix" if param.dim() > 1 else "bias"),
        derived=lambda group, kind, step: {"weight": 1 - group["beta"]},
        new_state=_new_state,
        foreach=tiger_update_foreach,
        whole=_whole,
        needs_matrices=True,
        row_kinds=("embedding",),
        traced=("lr", "weight", "weight_decay", "shrink_ratio"),
        fold=_fold,
        move=tiger_move,
        counters=("num_finite",),
    )
    _warned_of_kinds: ClassVar[bool] = False

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        beta: float = 0.965,
        weight_decay: float = 0.01,
        *,
        rms_floor: float = 0.0,
        shrink_ratio: float = 0.99,
        accumulation_steps: int = 1,
        free_gradients: bool = False,
        rounding: Rounding = "nearest",
        momentum_dtype: torch.dtype | None = None,
        foreach: bool | None = None,
        compile: bool = False,
    ):
        super().__init__(
            params,
            lr=lr,
            beta=beta,
            weight_decay=weight_decay,
            rms_floor=rms_floor,
            shrink_ratio=shrink_ratio,
            accumulation_steps=accumulation_steps,
            free_gradients=free_gradients,
            rounding=rounding,
            momentum_dtype=momentum_dtype,
            foreach=foreach,
            compile=compile,
        )
        groups = self.param_groups
        matrices = any(param.dim() > 1 for group in groups for param in group["params"])
        if matrices and not any("kind" in group for group in groups) and not Tiger._warned_of_kinds:
            Tiger._warned_of_kinds = True
            warn(
                "Tiger was given no kinds of parameters: embeddings step as other matrices and the gains of norms as "
                "biases. Pass param_groups(model, weight_decay=...) of suzoo.optimizers (transformers' Trainer: "
                "optimizers=(Tiger(param_groups(...)), None))"
            )
