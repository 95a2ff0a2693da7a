"""Lion: the sign of an interpolation between momentum and gradient.

Source: Chen et al. 2023, arXiv 2302.06675; Su, kexue.fm/archives/9473.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from suzoo.optimizers._driver import RuleOptimizer
from suzoo.optimizers._options import BETAS, FLAG, MOMENTUM_DTYPE, check_bfloat16_momentum
from suzoo.optimizers._rule import Rule
from suzoo.optimizers._tensors import Rounding


def lion_update(
    param: Tensor,
    grad: Tensor,
    momentum: Tensor,
    *,
    lr: float | Tensor,
    weight_decay: float | Tensor,
    beta1: float,
    beta2: float,
) -> tuple[Tensor, Tensor]:
    """New parameter and momentum; all tensors of one shape, nothing is changed in place."""
    # u = sign(β1 m + (1 - β1) g): the fresh gradient counts more than in the stored momentum
    direction = grad.lerp(momentum, beta1).sign()
    # θ ← θ - η (u + λ θ)
    new_param = param - lr * (direction + weight_decay * param)
    # m ← β2 m + (1 - β2) g, after the update
    return new_param, momentum.lerp(grad, 1 - beta2)


def lion_update_foreach(
    params: list[Tensor],
    grads: list[Tensor],
    momenta: list[Tensor],
    *,
    lr: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
) -> None:
    """`lion_update` on lists, in place."""
    directions = torch._foreach_lerp(grads, momenta, beta1)
    torch._foreach_sign_(directions)
    torch._foreach_add_(directions, params, alpha=weight_decay)
    torch._foreach_add_(params, directions, alpha=-lr)
    torch._foreach_lerp_(momenta, grads, 1 - beta2)


class Lion(RuleOptimizer):
    """Lion (EvoLved sIgn mOmeNtum). Use a 3-10 times smaller lr and as much larger weight_decay than with AdamW.

    Args:
        params: parameters or groups.
        lr: the size of every element's step. 1e-4; 3e-4 for base models, 4e-5 for BERT-base by the article's rule.
        betas: (0.9, 0.99), the paper's; it gives (0.95, 0.98) for language models.
        weight_decay: decoupled: θ shrinks by lr * weight_decay.
        lazy: change only rows (slices along the last dimension) with a non-zero gradient, for embeddings. Momentum of
            the other rows stands still. May be set per group.
        rounding: how a bf16 or fp16 parameter takes its new value, see `RuleOptimizer`.
        momentum_dtype: None is float32 (float64 for float64 parameters). bfloat16 halves the state; for beta2 <= 0.99.
        foreach, compile: see `RuleOptimizer`.

    Batches below 64 do worse than AdamW (the paper's own finding). State: one float per parameter.
    """

    rule = Rule(
        update=lion_update,
        states=("momentum",),
        options={"betas": BETAS, "lazy": FLAG, "momentum_dtype": MOMENTUM_DTYPE},
        check=lambda options: check_bfloat16_momentum(options, options["betas"][1]),
        foreach=lion_update_foreach,
    )

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        lazy: bool = False,
        rounding: Rounding = "nearest",
        momentum_dtype: torch.dtype | None = None,
        foreach: bool | None = None,
        compile: bool = False,
    ):
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            weight_decay=weight_decay,
            lazy=lazy,
            rounding=rounding,
            momentum_dtype=momentum_dtype,
            foreach=foreach,
            compile=compile,
        )
