"""Several losses into one scalar, by what is known of their size.

Source: Su, "多任务学习漫谈（一）：以损失之名", kexue.fm/archives/8870. Shapes: T tasks.

Every function takes the losses (T,) of this rank (`torch.stack` them) and weights by their means over ranks, so that
DDP's averaged gradient is that of one process. Report the losses themselves too: `running_loss` is always worth T.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from suzoo.distributed import all_reduce_mean


def running_loss(losses: Tensor) -> Tensor:
    """Sum of L / sg(L), gradient sum of g/L: as for the product of the losses. Blind to the scale of each loss.

    Raises:
        ValueError: a loss is not positive or not finite; on an accelerator, where a look would wait, the result is NaN.
    """
    return (losses / _positive("running_loss", losses, look=losses.device.type == "cpu")).sum()


def geometric_mean(losses: Tensor) -> Tensor:
    """(product of L)^(1/T): the direction of `running_loss` at the scale of the losses. Errors as there."""
    return generalized_mean(losses, 0.0)


def generalized_mean(losses: Tensor, gamma: float) -> Tensor:
    """(mean of L^γ)^(1/γ): 1 the arithmetic mean, 0 the geometric, -1 the harmonic, -inf the least, inf the largest.

    Below 1 it favours the tasks that are learnt already, above 1 those that are not. Raises ValueError where a loss is
    not positive or not finite (on an accelerator, where a look would wait, the result is NaN), unless γ is 1, and where
    γ is NaN.
    """
    if math.isnan(gamma):
        raise ValueError("generalized_mean: gamma is NaN; give a number, also inf or -inf")
    if gamma == 1:
        return (losses - losses.detach() + all_reduce_mean(losses)).mean()
    means = _positive("generalized_mean", losses, look=losses.device.type == "cpu")
    log_losses = (losses - losses.detach() + means).log()  # the value of all ranks, the gradient of this one
    if math.isinf(gamma):
        return (log_losses.amax() if gamma > 0 else log_losses.amin()).exp()
    if gamma == 0:
        return log_losses.mean().exp()
    return (((gamma * log_losses).logsumexp(0) - math.log(len(losses))) / gamma).exp()


class InitialLoss(nn.Module):
    """Sum of L / L0, L0 the losses (T,) before training: those of the first call, or `initial`.

    `initial` may be a prior instead, what a model would lose that knows the label frequencies only: `label_entropy` for
    a classification, the variance of the target for a regression. Kept in the state dict.

    Raises:
        ValueError: `initial`, or the mean over ranks of a loss of the first call, is not positive or not finite; shapes
            differ. After a bad first call the next one counts as the first.
    """

    initial: Tensor

    def __init__(self, num_tasks: int, initial: Tensor | None = None):
        super().__init__()
        if initial is not None and (initial.shape != (num_tasks,) or not _all_positive(initial)):
            raise ValueError(f"InitialLoss: initial must be ({num_tasks},) positive finite numbers, not {initial}")
        self.register_buffer("initial", torch.zeros(num_tasks) if initial is None else initial.detach().clone())
        self._is_known = False  # once it was seen: a look at every step would wait for an accelerator

    def forward(self, losses: Tensor) -> Tensor:
        if losses.shape != self.initial.shape:
            raise ValueError(f"InitialLoss: got losses {(*losses.shape,)} for {len(self.initial)} tasks")
        if not self._is_known:
            if not bool(self.initial.any()):
                self.initial.copy_(_positive("InitialLoss", losses, look=True))
            self._is_known = True
        return (losses / self.initial).sum()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._is_known = False


def label_entropy(counts: Tensor) -> Tensor:
    """Entropy in nats of the label frequencies (C,): the cross-entropy of a model that knows nothing else.

    Raises:
        ValueError: a count is negative or not finite, or all are 0.
    """
    if not bool(((counts >= 0) & counts.isfinite()).all()) or not bool(counts.any()):
        raise ValueError(f"label_entropy: counts must be finite, at least 0 and not all 0, not {counts.tolist()}")
    p = counts.double() / counts.sum()
    return -torch.special.xlogy(p, p).sum()


def _positive(name: str, losses: Tensor, *, look: bool) -> Tensor:
    """Their means over the ranks; without a look, NaN where one is bad."""
    means = all_reduce_mean(losses)
    if not look:
        return torch.where((means > 0) & means.isfinite(), means, torch.nan)
    if not _all_positive(means):
        raise ValueError(
            f"{name}: every loss must be positive and finite, got {means.tolist()}; for losses that may be 0 or "
            "less weight by `inverse_gradient_norm`"
        )
    return means


def _all_positive(x: Tensor) -> bool:
    return bool(((x > 0) & x.isfinite()).all())
