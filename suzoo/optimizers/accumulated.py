"""Gradient accumulation around any optimizer, with the gradients themselves as the accumulator.

Source: Su, kexue.fm/archives/6794, github.com/bojone/accum_optimizer_for_keras.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.optimizer import StateDict

from suzoo.distributed import all_reduce_sum, is_distributed, world_size
from suzoo.optimizers._accumulation import SeenGradients, only_makes_state
from suzoo.optimizers._compiled import run_eagerly
from suzoo.optimizers._options import COUNT
from suzoo.optimizers._tensors import local
from suzoo.optimizers._wrapper import OptimizerWrapper


class Accumulated(OptimizerWrapper):
    """`optimizer` that takes one step on the mean gradient of every `accumulation_steps` calls.

    Use it like the optimizer itself: `loss.backward(); accumulated.step(); accumulated.zero_grad()` for every
    micro-batch, without dividing the loss. Inside a window `step` only counts and `zero_grad` does nothing, so backward
    adds up in `.grad` and no second buffer is needed. A loop that calls `model.zero_grad()` instead (transformers'
    Trainer) finds the sum back at the next backward. Step the schedule when `at_boundary` is True. Under DDP inner
    micro-steps may use `no_sync`. BatchNorm statistics are not accumulated.

    Args:
        optimizer: any torch optimizer. Its groups and state are this object's.
        accumulation_steps: k.
        max_grad_norm: clip the norm of the mean gradient before the step. Clipping outside, between backward and
            `step`, would clip partial sums, and is refused in a single process (several ranks change gradients there).

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
    ):
        COUNT.check("Accumulated", "accumulation_steps", accumulation_steps)
        if getattr(optimizer, "folds_gradients", False):
            raise ValueError(f"{type(optimizer).__name__} accumulates already (accumulation_steps); do not wrap it")
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be positive or None, not {max_grad_norm}")
        self.optimizer = optimizer
        self.accumulation_steps = accumulation_steps
        self.max_grad_norm = max_grad_norm
        self.micro_step = 0
        self.total_weight: float | None = None
        # the sums of a window: the tensors in `.grad`
        self._sums: dict[Tensor, Tensor] = {}
        self._versions: dict[Tensor, int] = {}  # of the sums after the last `step`
        self._seen = SeenGradients()
        self._set_hooks(self.param_groups)

    def _set_hooks(self, groups: list[dict[str, Any]]) -> None:
        owner = weakref.ref(self)

        def hook_of(param: Tensor) -> Callable[[Tensor], None]:
            reference = weakref.ref(param)

            def hook(_: Tensor) -> None:
                self, param = owner(), reference()
                if self is not None and param is not None:
                    self._put_sum_back(param)

            return hook

        for param in (param for group in groups for param in group["params"]):
            if param.requires_grad:
                param.register_hook(hook_of(param))
                param.register_post_accumulate_grad_hook(self._seen.remember)

    def _put_sum_back(self, param: Tensor) -> None:
        """Before backward adds a gradient: somebody may have removed the sum."""
        version = self._versions.pop(param, None)
        if version is None:  # not the first gradient since `step`
            return
        if param.grad is None:
            param.grad = self._sums[param]
        elif param.grad is self._sums[param] and param.grad._version != version and not is_distributed():
            raise RuntimeError(
                "Accumulated: the sum of a window was changed between step and backward, by "
                "zero_grad(set_to_none=False) of the model perhaps; use zero_grad of Accumulated, or set_to_none=True"
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._set_hooks(self.param_groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self._set_hooks(self.param_groups[-1:])

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
        if self.at_boundary:
            self.optimizer.zero_grad(set_to_none)

    def _params(self) -> list[Tensor]:
        return [param for group in self.param_groups for param in group["params"]]

    @run_eagerly
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None, *, weight: float | None = None) -> float | None:
        """Count a micro-step; at the end of a window, step. Returns the value of `closure`, if given.

        Raises:
            ValueError: some micro-steps of a window have a weight and some not, or it is not positive in sum.
            RuntimeError: a gradient was changed between backward and this call.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if only_makes_state(self):
            self.optimizer.step()
            return loss
        if not self.at_boundary and (weight is None) != (self.total_weight is None):
            raise ValueError("Accumulated.step: give a weight at every micro-step of a window, or at none")
        if self._seen.any_changed(self._params()):
            raise RuntimeError(
                "Accumulated: a gradient was changed between backward and step, where it is a partial sum. To clip the "
                "mean gradient give Accumulated max_grad_norm= and turn other clipping off (in transformers' Trainer: "
                "max_grad_norm=0)"
            )
        self._seen.clear()
        total_weight = None if weight is None else float(weight) + (0.0 if self.at_boundary else self.total_weight or 0)
        self._add_up()
        if (self.micro_step + 1) % self.accumulation_steps == 0:
            self._step_on_mean([param for param in self._params() if param.grad is not None], total_weight)
            self._sums.clear()
        self._versions = {param: total._version for param, total in self._sums.items()}
        self.total_weight = total_weight
        self.micro_step += 1
        return loss

    def _add_up(self) -> None:
        """Make `.grad` the sum over the window, also where it was removed and no backward has put it back."""
        for param in self._params():
            total = self._sums.get(param)
            if param.grad is None:
                param.grad = total
            elif total is not None and isinstance(param, DTensor) and param.grad is not total:
                param.grad.add_(total)  # FSDP2 sets gradients without the hooks of autograd
            if param.grad is not None:
                self._sums[param] = param.grad

    def _step_on_mean(self, params: list[Tensor], total_weight: float | None) -> None:
        divisor = float(self.accumulation_steps)
        if total_weight is not None:
            divisor = total_weight
            if is_distributed():
                device = params[0].device if params else "cpu"
                total = torch.full((), total_weight, dtype=torch.float64, device=device)
                divisor = float(all_reduce_sum(total)) / world_size()
            if not divisor > 0:
                raise ValueError("Accumulated.step: the weights of a window must have a positive sum")
        torch._foreach_div_([local(param.grad) for param in params], divisor)
        norm = None
        if self.max_grad_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(params, self.max_grad_norm)
        try:
            self.optimizer.step()
        except BaseException:
            # the sum again: the step may be tried once more
            clipped = 1.0 if norm is None or self.max_grad_norm is None else float(norm) / self.max_grad_norm
            for param in params:
                assert param.grad is not None
                param.grad.mul_(divisor * max(clipped, 1.0))
            raise

    def state_dict(self) -> StateDict:
        """The inner optimizer's, with the place in the window in the groups and the gradients summed so far in states.

        torch.distributed.checkpoint keeps of a state only what a fresh optimizer has: save between windows there.
        """
        state = self.optimizer.state_dict()
        sums = {i: self._sums[param] for i, param in enumerate(self._params()) if param in self._sums}
        window = {"micro_step": self.micro_step, "total_weight": self.total_weight, "num_sums": len(sums)}
        for group in state["param_groups"]:
            group["window"] = dict(window)
        state["state"] = {**state["state"]}
        for i, total in sums.items():
            state["state"][i] = {**state["state"].get(i, {}), "gradient_sum": total}
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: StateDict) -> None:
        """Resumes also in the middle of a window: puts the summed gradients back.

        Raises:
            ValueError: a state without the place in a window, or without the sums of one. Nothing is changed then.
        """
        groups, states = [dict(group) for group in state_dict["param_groups"]], {}
        sums: dict[int, Tensor] = {}
        windows = [group.pop("window", None) for group in groups]
        if None in windows:
            raise ValueError(
                "Accumulated.load_state_dict: this is the state of an optimizer alone, without the place in a window; "
                "load it into accumulated.optimizer"
            )
        # JSON makes strings of numbers, and torch.distributed.checkpoint has names
        places = [str(index) for group in groups for index in group["params"]]
        for i, state in state_dict["state"].items():
            states[i] = {name: value for name, value in state.items() if name != "gradient_sum"}
            if "gradient_sum" in state:
                sums[places.index(str(i))] = state["gradient_sum"]
        if len(sums) != windows[0]["num_sums"]:
            raise ValueError(
                f"Accumulated.load_state_dict: the state was saved inside a window, and {windows[0]['num_sums']} sums "
                f"of gradients belong to it, but {len(sums)} are there: with torch.distributed.checkpoint save where "
                "accumulated.at_boundary is True"
            )
        states = {i: state for i, state in states.items() if state}
        self.optimizer.load_state_dict({**state_dict, "param_groups": groups, "state": states})
        self.micro_step, self.total_weight = windows[0]["micro_step"], windows[0]["total_weight"]
        params = self._params()
        self._sums, self._versions = {}, {}
        for i, saved in sums.items():
            param = params[i]
            param.grad = self._sums[param] = saved.to(param.device, copy=True)
            self._versions[param] = param.grad._version
