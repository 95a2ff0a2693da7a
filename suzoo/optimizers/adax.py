"""AdaX: Adam whose second moment remembers the past ever longer instead of forgetting it exponentially.

Source: Li et al. 2020, arXiv 2004.09740; Su, kexue.fm/archives/7387. The articles keep v = (1 + β2) v + β2 g² and
divide it by (1 + β2)^t - 1 when it is used. That v overflows float32 after 900 thousand steps, so this one stores the
quotient itself, an average with the weight β2 / ((1 + β2)^t - 1) for the newest square: the same numbers, bounded.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from suzoo.optimizers._driver import RuleOptimizer
from suzoo.optimizers._options import BELOW_1, EPS, FLAG, number, one_of, pair
from suzoo.optimizers._rule import Group, Rule
from suzoo.optimizers._tensors import Rounding, shrink

EpsPlacement = Literal["root", "inside", "raw"]


def adax_update(
    param: Tensor,
    grad: Tensor,
    momentum: Tensor,
    second_moment: Tensor,
    *,
    lr: float | Tensor,
    weight_decay: float | Tensor,
    weight: float | Tensor,
    eps: float | Tensor,
    beta1: float,
    eps_inside: bool,
    decoupled: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """New parameter, momentum and second moment. `weight` is β2 / ((1 + β2)^t - 1), 1 at the first step."""
    if not decoupled:
        grad = grad + weight_decay * param
    # m ← β1 m + (1 - β1) g, without bias correction
    momentum = momentum.lerp(grad, 1 - beta1)
    # v ← (1 - w_t) v + w_t g²
    second_moment = second_moment + weight * (grad.square() - second_moment)
    root = (second_moment + eps).sqrt() if eps_inside else second_moment.sqrt() + eps
    # θ ← θ - α m / (√v + ε), and θ's own decay where it is decoupled
    step = momentum / root
    return param - lr * (step + weight_decay * param if decoupled else step), momentum, second_moment


def adax_update_foreach(
    params: list[Tensor],
    grads: list[Tensor],
    momenta: list[Tensor],
    second_moments: list[Tensor],
    *,
    lr: float,
    weight_decay: float,
    weight: float,
    eps: float,
    beta1: float,
    eps_inside: bool,
    decoupled: bool,
) -> None:
    """`adax_update` on lists, in place; the gradients are left alone."""
    if not decoupled and weight_decay:
        grads = list(torch._foreach_add(grads, params, alpha=weight_decay))
    torch._foreach_lerp_(momenta, grads, 1 - beta1)
    torch._foreach_lerp_(second_moments, torch._foreach_mul(grads, grads), weight)
    if eps_inside:
        roots = torch._foreach_add(second_moments, eps)
        torch._foreach_sqrt_(roots)
    else:
        roots = torch._foreach_sqrt(second_moments)
        torch._foreach_add_(roots, eps)
    if decoupled:
        shrink(params, 1 - lr * weight_decay)
    torch._foreach_addcdiv_(params, momenta, roots, value=-lr)


BETAS_OF_ADAX = pair(
    "(a number in [0, 1), the growth rate of the second moment in (0, 0.1]: the articles use 1e-4)",
    BELOW_1,
    number("a number in (0, 0.1]", lambda v: 0 < v <= 0.1),
)


def _derived(group: Group, kind: None, step: float) -> dict[str, Any]:
    _, beta2 = group["betas"]
    # (1 + β2)^t - 1, exact for small β2; its inverse times β2 is 0 long before it could overflow
    exponent = step * math.log1p(beta2)
    growth = math.expm1(exponent) if exponent < 700 else math.inf
    raw = group["eps_placement"] == "raw"
    return {
        "weight": beta2 / growth,
        # never 0 in float32: a coordinate that never had a gradient would be 0 / 0
        "eps": max(group["eps"] / math.sqrt(growth), 1e-30) if raw else group["eps"],
        "eps_inside": group["eps_placement"] == "inside",
    }


class AdaX(RuleOptimizer):
    """AdaX with L2 regularization: weight_decay * θ joins the gradient, as in Adam. `AdaXW` decouples it.

    Args:
        params: parameters or groups.
        lr: the step of a coordinate whose momentum has the size of its typical gradient.
        betas: (β1, β2) = (0.9, 1e-4); β2 is a growth rate, not a decay: (1 + β2)^t.
        eps: at least 1e-30.
        weight_decay: L2 coefficient.
        eps_placement: "root": √v + ε (bojone V2). "inside": √(v + ε) (the article). "raw": ε joins the root of the
            unnormalized second moment (official code, bojone V1), so it acts 100 times stronger at the first step.
        lazy: change only rows with a non-zero gradient, see `Lion`.
        rounding, foreach, compile: see `RuleOptimizer`.

    The first step is 0.1 * lr * sign(g), because the momentum starts at 0 and is not corrected. After 74 thousand steps
    the second moment is all but frozen, by design: restart the optimizer before training on something else.
    State: two floats per parameter.
    """

    rule = Rule(
        update=partial(adax_update, decoupled=False),
        states=("momentum", "second_moment"),
        options={"betas": BETAS_OF_ADAX, "eps": EPS, "eps_placement": one_of("root", "inside", "raw"), "lazy": FLAG},
        derived=_derived,
        foreach=partial(adax_update_foreach, decoupled=False),
        traced=("lr", "weight_decay", "beta1", "weight", "eps"),
    )

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 1e-4),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        eps_placement: EpsPlacement = "root",
        lazy: bool = False,
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
            eps_placement=eps_placement,
            lazy=lazy,
            rounding=rounding,
            foreach=foreach,
            compile=compile,
        )


class AdaXW(AdaX):
    """AdaX with decoupled weight decay: θ shrinks by lr * weight_decay, as in AdamW. The defaults are the authors'."""

    rule = replace(
        AdaX.rule, update=partial(adax_update, decoupled=True), foreach=partial(adax_update_foreach, decoupled=True)
    )

    def __init__(
        self,
        params: ParamsT,
        lr: float = 5e-3,
        betas: tuple[float, float] = (0.9, 1e-4),
        eps: float = 1e-12,
        weight_decay: float = 5e-2,
        *,
        eps_placement: EpsPlacement = "raw",
        lazy: bool = False,
        rounding: Rounding = "nearest",
        foreach: bool | None = None,
        compile: bool = False,
    ):
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            eps_placement=eps_placement,
            lazy=lazy,
            rounding=rounding,
            foreach=foreach,
            compile=compile,
        )
