r"""AdamW that accumulates gradients inside its moments: the first moment exactly, the second approximately.

Source: Su, kexue.fm/archives/8634. The mean gradient ḡ of a window is in the first moment, but ḡ² is not the mean of
the k squares. With a micro-gradient of mean μ and standard deviation σ, E ḡ² = μ² + σ²/k, while a window adds

- "mean_sq" (the article): the mean of g², expectation μ² + σ². The step is √((μ² + σ²/k) / (μ² + σ²)) times that of
  plain accumulation, from 1/√k (all noise) to 1 (none); `scale_lr` multiplies it by √k for the noisy case.
- "sum_scaled_sq": the sum of (g/k)², expectation (μ² + σ²) / k. The ratio is √k times the above, from 1 (all noise,
  the usual case) to √k: the default.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from suzoo.optimizers._driver import RuleOptimizer
from suzoo.optimizers._options import BETAS, COUNT, EPS, FLAG, one_of
from suzoo.optimizers._rule import Group, Job, Rule
from suzoo.optimizers._tensors import Rounding, local, shrink

SecondMoment = Literal["mean_sq", "sum_scaled_sq"]


def adamw_move(
    param: Tensor,
    momentum: Tensor,
    second_moment: Tensor,
    *,
    lr: float | Tensor,
    weight_decay: float | Tensor,
    correction1: float | Tensor,
    correction2: float | Tensor,
    eps: float,
    eps_inside: bool,
    lr_factor: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The end of a window: θ ← θ - α (m̂ / (√v̂ + ε) + λ θ), with m̂ = m / correction1 and v̂ = v / correction2."""
    corrected = second_moment / correction2
    root = (corrected + eps).sqrt() if eps_inside else corrected.sqrt() + eps
    step = momentum / correction1 / root
    return param - lr * (lr_factor * step + weight_decay * param), momentum, second_moment


def adamw_update(
    param: Tensor,
    grad: Tensor,
    momentum: Tensor,
    second_moment: Tensor,
    *,
    beta1: float,
    beta2: float,
    lr: float | Tensor,
    weight_decay: float | Tensor,
    correction1: float | Tensor,
    correction2: float | Tensor,
    eps: float,
    eps_inside: bool,
    lr_factor: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """New parameter and moments of an update without accumulation: AdamW."""
    return adamw_move(
        param,
        momentum.lerp(grad, 1 - beta1),
        second_moment.lerp(grad.square(), 1 - beta2),
        lr=lr,
        weight_decay=weight_decay,
        correction1=correction1,
        correction2=correction2,
        eps=eps,
        eps_inside=eps_inside,
        lr_factor=lr_factor,
    )


def adamw_update_foreach(
    params: list[Tensor],
    grads: list[Tensor],
    momenta: list[Tensor],
    second_moments: list[Tensor],
    *,
    beta1: float,
    beta2: float,
    lr: float,
    weight_decay: float,
    correction1: float,
    correction2: float,
    eps: float,
    eps_inside: bool,
    lr_factor: float,
) -> None:
    """`adamw_update` on lists, in place; the gradients are left alone."""
    torch._foreach_lerp_(momenta, grads, 1 - beta1)
    torch._foreach_lerp_(second_moments, torch._foreach_mul(grads, grads), 1 - beta2)
    # the correction of v leaves the root, and joins that of m in the rate: one pass less
    root = math.sqrt(correction2)
    if eps_inside:
        roots = torch._foreach_add(second_moments, eps * correction2)
        torch._foreach_sqrt_(roots)
    else:
        roots = torch._foreach_sqrt(second_moments)
        torch._foreach_add_(roots, eps * root)
    shrink(params, 1 - lr * weight_decay)
    torch._foreach_addcdiv_(params, momenta, roots, value=-lr * lr_factor * root / correction1)


def _derived(group: Group, kind: None, step: float) -> dict[str, Any]:
    beta1, beta2 = group["betas"]
    return {
        "correction1": 1 - beta1**step,
        "correction2": 1 - beta2**step,
        "lr_factor": math.sqrt(group["accumulation_steps"]) if group["scale_lr"] else 1.0,
    }


def _fold(job: Job, first: bool) -> None:
    """Both moments: [(β - 1) χ + 1] of the old, and (1 - β) of this micro-step's share."""
    group = job.group
    momentum, second_moment = (local(state) for state in job.states.values())
    beta1, beta2 = group["betas"]
    k = group["accumulation_steps"]
    assert job.grad is not None
    grad = local(job.grad).to(momentum.dtype)
    if first:
        momentum.mul_(beta1)
        second_moment.mul_(beta2)
    momentum.add_(grad, alpha=(1 - beta1) / k)
    share = k if group["second_moment"] == "mean_sq" else k * k
    second_moment.add_(grad * ((1 - beta2) / share) * grad)  # addcmul_ has no batched form


def _check(options: Group) -> None:
    if options["scale_lr"] and options["second_moment"] != "mean_sq":
        raise ValueError("scale_lr corrects second_moment='mean_sq'; 'sum_scaled_sq' needs no correction")


class AccumulatedAdamW(RuleOptimizer):
    """AdamW that needs no gradient buffer for accumulation. With accumulation_steps=1 it is torch.optim.AdamW.

    Args:
        params: parameters or groups.
        lr, betas, eps, weight_decay: as in torch.optim.AdamW. eps_inside puts ε inside the root, as the article does.
        accumulation_steps: k micro-steps per update, see `RuleOptimizer`.
        second_moment: what a window adds, "sum_scaled_sq" or "mean_sq", see above.
        scale_lr: multiply the step (not the decay) by √k; for "mean_sq".
        lazy: see `Lion`; LazyAdam for embeddings (kexue.fm/archives/6869). Only without accumulation.
        free_gradients: fold gradients during backward and free them.
        rounding, foreach, compile: see `RuleOptimizer`. foreach is for updates without accumulation.

    State: two floats per parameter.
    """

    rule = Rule(
        update=adamw_update,
        states=("momentum", "second_moment"),
        options={
            "betas": BETAS,
            "eps": EPS,
            "eps_inside": FLAG,
            "second_moment": one_of("mean_sq", "sum_scaled_sq"),
            "scale_lr": FLAG,
            "lazy": FLAG,
            "accumulation_steps": COUNT,
        },
        check=_check,
        derived=_derived,
        foreach=adamw_update_foreach,
        traced=("lr", "weight_decay", "beta1", "beta2", "correction1", "correction2"),
        fold=_fold,
        move=adamw_move,
    )

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        accumulation_steps: int = 1,
        second_moment: SecondMoment = "sum_scaled_sq",
        scale_lr: bool = False,
        eps_inside: bool = False,
        lazy: bool = False,
        free_gradients: bool = False,
        rounding: Rounding = "nearest",
        foreach: bool | None = None,
        compile: bool = False,
    ):
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            accumulation_steps=accumulation_steps,
            second_moment=second_moment,
            scale_lr=scale_lr,
            eps_inside=eps_inside,
            lazy=lazy,
            free_gradients=free_gradients,
            rounding=rounding,
            foreach=foreach,
            compile=compile,
        )
