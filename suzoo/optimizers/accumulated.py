"""Gradient accumulation around any optimizer, with the gradients themselves as the accumulator.

Source: Su, kexue.fm/archives/6794, github.com/bojone/accum_optimizer_for_keras.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import StateDict

from suzoo.distributed import all_reduce_sum, is_distributed, world_size
from suzoo.optimizers._accumulation import check_accumulation_steps
from suzoo.optimizers._wrapper import OptimizerWrapper


class Accumulated(OptimizerWrapper):
    """`optimizer` that takes one step on the mean gradient of every `accumulation_steps` calls.

    Use it like the optimizer itself: `loss.backward(); accumulated.step(); accumulated.zero_grad()` for every
    micro-batch, without dividing the loss. Inside a window `step` only counts and `zero_grad` does nothing, so backward
    adds up in `.grad` and no second buffer is needed. Step the schedule when `at_boundary` is True. Under DDP inner
    micro-steps may use `no_sync`. BatchNorm statistics are not accumulated.

    Args:
        optimizer: any torch optimizer. Its groups and state are this object's.
        accumulation_steps: k.
        max_grad_norm: clip the norm of the mean gradient before the step. Clipping outside, between backward and
            `step`, would clip partial sums.
        stale: reproduce the Keras original instead: the step comes at the START of a window, with the mean gradient of
            the window before (zero at first), and the gradient of that call is the one taken before the step. Costs a
            buffer. For comparison only.

    With `step(weight=...)` the mean is weighted: give the micro-batch's number of tokens (on this rank), and backward
    through the SUM of the token losses. The gradient is then divided by the tokens of the window on all ranks, times
    the number of ranks because DDP and FSDP average over them. Mean losses of micro-batches with different numbers of
    tokens do not have this mean.

    Under transformers' Trainer leave gradient_accumulation_steps at 1.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        accumulation_steps: int,
        *,
        max_grad_norm: float | None = None,
        stale: bool = False,
    ):
        check_accumulation_steps(accumulation_steps)
        if getattr(optimizer, "folds_gradients", False):
            raise ValueError(f"{type(optimizer).__name__} accumulates already (accumulation_steps); do not wrap it")
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be positive or None, not {max_grad_norm}")
        self.optimizer = optimizer
        self.accumulation_steps = accumulation_steps
        self.max_grad_norm = max_grad_norm
        self.stale = stale
        self.micro_step = 0
        self.total_weight: float | None = None
        self._buffers: dict[Tensor, Tensor] = {}

    @property
    def at_boundary(self) -> bool:
        """True between windows: the last `step()` was a real one (or there was none yet)."""
        return self.micro_step % self.accumulation_steps == 0

    @property
    def _step_supports_amp_scaling(self) -> bool:  # the question GradScaler.step asks first
        raise RuntimeError(
            "Accumulated cannot be stepped by GradScaler, which would unscale the partial sums again at every "
            "micro-step. Use bf16 autocast, which needs no scaler"
        )

    def zero_grad(self, set_to_none: bool = True) -> None:
        if self.stale or self.at_boundary:
            self.optimizer.zero_grad(set_to_none)

    def _params(self) -> list[Tensor]:
        return [param for group in self.param_groups for param in group["params"]]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None, *, weight: float | None = None) -> float | None:
        """Count a micro-step; at the end of a window, step. Returns the value of `closure`, if given.

        Raises:
            ValueError: some micro-steps of a window have a weight and some not, or it is not positive in sum.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self.at_boundary and (weight is None) != (self.total_weight is None):
            raise ValueError("Accumulated.step: give a weight at every micro-step of a window, or at none")
        if self.stale and weight is not None:
            raise ValueError("Accumulated.step: stale=True reproduces the original, which knows no weights")
        if weight is not None:
            self.total_weight = (0.0 if self.at_boundary else self.total_weight or 0.0) + float(weight)
        elif self.at_boundary:
            self.total_weight = None
        if self.stale:
            self._stale_step()
        self.micro_step += 1
        if self.at_boundary and not self.stale:
            self._step_on_mean([param for param in self._params() if param.grad is not None])
        return loss

    def _step_on_mean(self, params: list[Tensor]) -> None:
        divisor = float(self.accumulation_steps)
        if self.total_weight is not None:
            total = torch.tensor(self.total_weight, dtype=torch.float64, device=params[0].device if params else "cpu")
            divisor = float(all_reduce_sum(total)) / (world_size() if is_distributed() else 1)
            if not divisor > 0:
                raise ValueError("Accumulated.step: the weights of a window must have a positive sum")
        for param in params:
            assert param.grad is not None
            param.grad.div_(divisor)
        if self.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(params, self.max_grad_norm)
        self.optimizer.step()

    def _stale_step(self) -> None:
        params = [param for param in self._params() if param.grad is not None]
        fresh = [param.grad for param in params]
        if self.at_boundary:
            for param in params:
                param.grad = self._buffers.pop(param, torch.zeros_like(param))
            self._step_on_mean(params)
        for param, grad in zip(params, fresh, strict=True):
            assert grad is not None
            self._buffers[param] = self._buffers[param] + grad if param in self._buffers else grad.clone()
            param.grad = grad

    def state_dict(self) -> StateDict:
        """The inner optimizer's, and under "accumulation" the place in the window with the gradients summed so far."""
        partial = self._buffers if self.stale else {p: p.grad for p in self._params() if p.grad is not None}
        grads = {i: partial[p] for i, p in enumerate(self._params()) if p in partial}
        return {
            **self.optimizer.state_dict(),
            "accumulation": {
                "micro_step": self.micro_step,
                "total_weight": self.total_weight,
                "grads": grads if self.stale or not self.at_boundary else {},
            },
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: StateDict) -> None:
        """Resumes also in the middle of a window: puts the summed gradients back."""
        accumulation = state_dict["accumulation"]
        self.optimizer.load_state_dict({k: v for k, v in state_dict.items() if k != "accumulation"})
        self.micro_step, self.total_weight = accumulation["micro_step"], accumulation["total_weight"]
        self._buffers = {}
        params = self._params()
        for i, saved in accumulation["grads"].items():
            param = params[int(i)]  # JSON makes strings of numbers
            grad = saved.to(param.device, copy=True)
            if self.stale:
                self._buffers[param] = grad
            else:
                param.grad = grad
