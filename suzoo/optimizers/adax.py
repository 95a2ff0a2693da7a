"""AdaX: Adam whose second moment remembers the past ever longer instead of forgetting it exponentially.

Source: Li et al. 2020, arXiv 2004.09740; Su, kexue.fm/archives/7387. The articles keep v = (1 + β2) v + β2 g² and
divide it by (1 + β2)^t - 1 when it is used. That v overflows float32 after 900 thousand steps, so this one stores the
quotient itself, an average with the weight β2 / ((1 + β2)^t - 1) for the newest square: the same numbers, bounded.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from suzoo.optimizers._rule import RuleOptimizer
from suzoo.optimizers._tensors import Rounding

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
        torch._foreach_mul_(params, 1 - lr * weight_decay)
    torch._foreach_addcdiv_(params, momenta, roots, value=-lr)


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

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "official": {"lr": 1.5e-3, "eps": 1e-12, "weight_decay": 5e-4, "eps_placement": "raw"},
        "bojone_v1": {"lr": 1e-3, "eps": 1e-7, "weight_decay": 0.0, "eps_placement": "raw"},
        "bojone_v2": {"lr": 1e-3, "eps": 1e-6, "weight_decay": 0.0, "eps_placement": "root"},
    }
    _state_names = ("momentum", "second_moment")
    _traced = (*RuleOptimizer._traced, "weight", "eps")
    _decoupled = False
    _update = staticmethod(adax_update)
    _update_foreach = staticmethod(adax_update_foreach)

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
            {
                "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                "eps_placement": eps_placement, "lazy": lazy,
            },
            rounding=rounding,
            foreach=foreach,
            compile=compile,
        )  # fmt: skip

    def _check_options(self, options: dict[str, Any]) -> None:
        super()._check_options(options)
        name, eps, (beta1, beta2) = type(self).__name__, options["eps"], options["betas"]
        if not eps >= 1e-30:
            raise ValueError(f"{name}: eps must be at least 1e-30, or 0 / 0 appears; got {eps}")
        if not 0 <= beta1 < 1:
            raise ValueError(f"{name}: beta1 must be in [0, 1), not {beta1}")
        if not 0 < beta2 <= 0.1:
            raise ValueError(
                f"{name}: beta2 is the growth rate of the second moment and must be in (0, 0.1], "
                f"not {beta2}; the articles use 1e-4"
            )
        if options["eps_placement"] not in ("root", "inside", "raw"):
            raise ValueError(f"eps_placement must be 'root', 'inside' or 'raw', not {options['eps_placement']!r}")

    def _options(self, group: dict[str, Any], param: Tensor) -> dict[str, Any]:
        beta1, beta2 = group["betas"]
        # (1 + β2)^t - 1, exact for small β2; its inverse times β2 is 0 long before it could overflow
        exponent = float(self.state[param]["step"]) * math.log1p(beta2)
        growth = math.expm1(exponent) if exponent < 700 else math.inf
        raw = group["eps_placement"] == "raw"
        return {
            "lr": group["lr"],
            "weight_decay": group["weight_decay"],
            "weight": beta2 / growth,
            # never 0 in float32: a coordinate that never had a gradient would be 0 / 0
            "eps": max(group["eps"] / math.sqrt(growth), 1e-30) if raw else group["eps"],
            "beta1": beta1,
            "eps_inside": group["eps_placement"] == "inside",
            "decoupled": self._decoupled,
        }


class AdaXW(AdaX):
    """AdaX with decoupled weight decay: θ shrinks by lr * weight_decay, as in AdamW. The defaults are the authors'."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "official": {"lr": 5e-3, "eps": 1e-12, "weight_decay": 5e-2, "eps_placement": "raw"}
    }
    _decoupled = True

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
