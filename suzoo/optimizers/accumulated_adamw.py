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

from torch import Tensor
from torch.optim.optimizer import ParamsT

from suzoo.optimizers._accumulation import HiddenAccumulation
from suzoo.optimizers._rule import check_betas
from suzoo.optimizers._tensors import Rounding, local

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


class AccumulatedAdamW(HiddenAccumulation):
    """AdamW that needs no gradient buffer for accumulation. With accumulation_steps=1 it is torch.optim.AdamW.

    Args:
        params: parameters or groups.
        lr, betas, eps, weight_decay: as in torch.optim.AdamW. eps_inside puts ε inside the root, as the article does.
        accumulation_steps: k micro-steps per update, see `HiddenAccumulation`.
        second_moment: what a window adds, "sum_scaled_sq" or "mean_sq", see above.
        scale_lr: multiply the step (not the decay) by √k; for "mean_sq".
        lazy: see `Lion`; LazyAdam for embeddings (kexue.fm/archives/6869). Only without accumulation.
        free_gradients: fold gradients during backward and free them.
        rounding, compile: see `RuleOptimizer`.

    State: two floats per parameter.
    """

    _state_names = ("momentum", "second_moment")
    _traced = (*HiddenAccumulation._traced, "correction1", "correction2")
    _update = staticmethod(adamw_update)
    _move = staticmethod(adamw_move)

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
        compile: bool = False,
    ):
        super().__init__(
            params,
            {
                "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "eps_inside": eps_inside,
                "second_moment": second_moment, "scale_lr": scale_lr, "accumulation_steps": accumulation_steps,
                "micro_step": 0, "lazy": lazy,
            },
            rounding=rounding,
            foreach=False,
            compile=compile,
        )  # fmt: skip
        self._start_accumulating(free_gradients)

    def _check_options(self, options: dict[str, Any]) -> None:
        super()._check_options(options)
        check_betas(betas=options["betas"])
        if not options["eps"] >= 1e-30:
            raise ValueError(f"eps must be at least 1e-30, or 0 / 0 appears; got {options['eps']}")
        if options["second_moment"] not in ("mean_sq", "sum_scaled_sq"):
            raise ValueError(f"second_moment must be 'mean_sq' or 'sum_scaled_sq', not {options['second_moment']!r}")
        if options["scale_lr"] and options["second_moment"] != "mean_sq":
            raise ValueError("scale_lr corrects second_moment='mean_sq'; 'sum_scaled_sq' needs no correction")

    def _move_options(self, group: dict[str, Any], param: Tensor) -> dict[str, Any]:
        t = float(self.state[param]["step"])
        beta1, beta2 = group["betas"]
        return {
            **{name: group[name] for name in ("lr", "weight_decay", "eps", "eps_inside")},
            "correction1": 1 - beta1**t,
            "correction2": 1 - beta2**t,
            "lr_factor": math.sqrt(group["accumulation_steps"]) if group["scale_lr"] else 1.0,
        }

    def _options(self, group: dict[str, Any], param: Tensor) -> dict[str, Any]:
        beta1, beta2 = group["betas"]
        return {"beta1": beta1, "beta2": beta2, **self._move_options(group, param)}

    def _fold_states(self, group: dict[str, Any], param: Tensor, grad: Tensor, first: bool) -> None:
        momentum, second_moment = (local(self.state[param][name]) for name in self._state_names)
        beta1, beta2 = group["betas"]
        k = group["accumulation_steps"]
        grad = grad.to(momentum.dtype)
        # both moments: [(β - 1) χ + 1] of the old, and (1 - β) of this micro-step's share
        if first:
            momentum.mul_(beta1)
            second_moment.mul_(beta2)
        momentum.add_(grad, alpha=(1 - beta1) / k)
        share = k if group["second_moment"] == "mean_sq" else k * k
        second_moment.addcmul_(grad, grad, value=(1 - beta2) / share)
