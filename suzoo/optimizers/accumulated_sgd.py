"""SGD with momentum that accumulates gradients inside the momentum: exactly what it does on mean gradients.

Source: Su, kexue.fm/archives/8634.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from suzoo.optimizers._driver import RuleOptimizer
from suzoo.optimizers._options import BELOW_1, COUNT, FLAG
from suzoo.optimizers._rule import Job, Rule
from suzoo.optimizers._tensors import Rounding, local, shrink


def sgd_move(
    param: Tensor,
    momentum: Tensor,
    *,
    lr: float | Tensor,
    weight_decay: float | Tensor,
    dampening: float,
    decoupled: bool,
) -> tuple[Tensor, Tensor]:
    """The end of a window: the momentum already holds the window's mean gradient."""
    if decoupled:
        return param - lr * (momentum + weight_decay * param), momentum
    # θ stood still in the window, so λθ joins the mean gradient once
    momentum = momentum + (1 - dampening) * weight_decay * param
    return param - lr * momentum, momentum


def sgd_update(
    param: Tensor,
    grad: Tensor,
    momentum: Tensor,
    *,
    beta: float,
    lr: float | Tensor,
    weight_decay: float | Tensor,
    dampening: float,
    decoupled: bool,
) -> tuple[Tensor, Tensor]:
    """New parameter and momentum of an update without accumulation: m ← β m + (1 - dampening) g."""
    momentum = beta * momentum + (1 - dampening) * grad
    return sgd_move(param, momentum, lr=lr, weight_decay=weight_decay, dampening=dampening, decoupled=decoupled)


def sgd_update_foreach(
    params: list[Tensor],
    grads: list[Tensor],
    momenta: list[Tensor],
    *,
    beta: float,
    lr: float,
    weight_decay: float,
    dampening: float,
    decoupled: bool,
) -> None:
    """`sgd_update` on lists, in place; the gradients are left alone."""
    shrink(momenta, beta)
    torch._foreach_add_(momenta, grads, alpha=1 - dampening)
    if decoupled:
        shrink(params, 1 - lr * weight_decay)
        torch._foreach_add_(params, momenta, alpha=-lr)
        return
    torch._foreach_add_(momenta, params, alpha=(1 - dampening) * weight_decay)
    torch._foreach_add_(params, momenta, alpha=-lr)


def _fold(job: Job, first: bool) -> None:
    """m ← [(β - 1) χ + 1] m + (1 - dampening) / k g"""
    group, grad, momentum = job.group, job.grad, local(job.state["momentum"])
    assert grad is not None
    if first:
        momentum.mul_(group["momentum"])
    momentum.add_(local(grad).to(momentum.dtype), alpha=(1 - group["dampening"]) / group["accumulation_steps"])


class AccumulatedSGD(RuleOptimizer):
    """SGD with momentum; k micro-steps equal one step of torch.optim.SGD on the mean of the k gradients.

    Args:
        params: parameters or groups.
        lr: learning rate.
        momentum: β. 0 would have nothing to hide the gradients in beyond the window, but works.
        accumulation_steps: k micro-steps per update, see `RuleOptimizer`.
        dampening: m ← β m + (1 - dampening) ḡ, also at the first step (torch leaves that one undampened). The article's
            form is dampening = momentum.
        weight_decay: L2 as in torch.optim.SGD, or decoupled (θ shrinks by lr * weight_decay).
        free_gradients: fold gradients during backward and free them.
        rounding, foreach, compile: see `RuleOptimizer`. foreach is for updates without accumulation.

    State: one float per parameter. Nesterov momentum is not offered: it needs the mean gradient by itself.
    """

    rule = Rule(
        update=sgd_update,
        states=("momentum",),
        options={"momentum": BELOW_1, "dampening": BELOW_1, "decoupled": FLAG, "accumulation_steps": COUNT},
        derived=lambda group, kind, step: {"beta": group["momentum"]},
        foreach=sgd_update_foreach,
        fold=_fold,
        move=sgd_move,
    )

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.9,
        *,
        accumulation_steps: int = 1,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        free_gradients: bool = False,
        rounding: Rounding = "nearest",
        foreach: bool | None = None,
        compile: bool = False,
    ):
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            decoupled=decoupled,
            accumulation_steps=accumulation_steps,
            free_gradients=free_gradients,
            rounding=rounding,
            foreach=foreach,
            compile=compile,
        )
