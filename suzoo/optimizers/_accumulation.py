"""Accumulation hidden in momentum: every micro-step's gradient joins the momentum at once, every k-th step moves.

Source: Su, kexue.fm/archives/8634. With χ = 1 at the first gradient of a window of k micro-steps and 0 after it,

    m ← [(β - 1) χ + 1] m + (1 - β) / k · g

leaves after k micro-steps exactly the momentum of the window's mean gradient, because the parameters stand still inside
a window. No second buffer of gradient size is needed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from suzoo.distributed import is_distributed
from suzoo.optimizers._rule import RuleOptimizer
from suzoo.optimizers._tensors import gradient_of, local


class HiddenAccumulation(RuleOptimizer):
    """Base of the optimizers that accumulate inside their own state.

    `step()` follows every micro-batch; every `accumulation_steps`-th call moves the parameters. The training loop
    itself must not accumulate, and steps its schedule when `at_boundary` is True. It must not clip gradients (the mean
    of clipped gradients is not the clipped mean), not use GradScaler (a skipped step would leave half a window in the
    momentum) and, on several ranks, not use `no_sync` (each gradient is folded in for good, so it must be the reduced
    one). GradScaler is refused; gradients changed between backward and `step` are refused in a single process.

    With `free_gradients=True` a hook folds each gradient into the state the moment backward has it, and frees it: a
    full set of gradients never exists. Nothing can be clipped or logged then. `close()` removes the hooks. Where
    `accelerator.prepare` puts sharded parameters into the place of those given (FSDP2), the hooks move to them at the
    first `step`, so that the gradients of that one micro-step are all there at once.
    """

    _cpu_states = ("step", "folded")
    _move: ClassVar[Callable]  # the rule without gradient: (param, *states, **options) -> new ones at a window's end
    _hooks: tuple = ()
    _hooked: tuple = ()  # weak references to the parameters with hooks
    _free_gradients = False

    def _start_accumulating(self, free_gradients: bool) -> None:
        """Called at the end of the subclass's __init__."""
        self.accumulation_steps: int = self.param_groups[0]["accumulation_steps"]
        self._free_gradients = free_gradients
        for group in self.param_groups:
            self._check_options(group)
        self._seen = SeenGradients()
        if self.folds_gradients:
            self._set_hooks()

    def _check_options(self, options: dict[str, Any]) -> None:
        super()._check_options(options)
        check_accumulation_steps(options["accumulation_steps"])
        window = (self.param_groups or [options])[0]["accumulation_steps"]
        if options["accumulation_steps"] != window:
            raise ValueError(
                f"{type(self).__name__}: all groups share a window, and their accumulation_steps must be equal, not "
                f"{window} and {options['accumulation_steps']}"
            )

    def _trained(self) -> list[tuple[int, Tensor]]:
        """Parameters that can get a gradient, with the number of their group."""
        return [(i, p) for i, group in enumerate(self.param_groups) for p in group["params"] if p.requires_grad]

    def _set_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        params = self._trained()
        self._hooks = tuple(p.register_post_accumulate_grad_hook(self._make_hook(i)) for i, p in params)
        self._hooked = tuple(weakref.ref(p) for _, p in params)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.accumulation_steps = self.param_groups[0]["accumulation_steps"]
        self.__dict__.setdefault("_seen", SeenGradients())

    def _make_hook(self, index: int) -> Callable[[Tensor], None]:
        def hook(param: Tensor) -> None:
            self._check_gradient(param)
            assert param.grad is not None
            if not self._free_gradients:
                self._seen.remember(param)
                return
            if is_distributed() and not isinstance(param, DTensor):
                raise RuntimeError(
                    "free_gradients=True takes the gradient before DistributedDataParallel has averaged it over the "
                    "ranks; use FSDP2, or leave free_gradients off"
                )
            with torch.no_grad():
                self._fold(self.param_groups[index], param)
            param.grad = None

        return hook

    def close(self) -> None:
        """Remove the hooks; gradients are then folded in `step`."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._hooked, self._free_gradients = (), (), False

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        if group["lazy"] and self.folds_gradients:
            raise ValueError(
                f"{type(self).__name__}: lazy=True needs the whole gradient of an update to see which rows to leave "
                "out, and accumulation folds its parts in before: use accumulation_steps=1, or Accumulated around it"
            )

    @property
    def folds_gradients(self) -> bool:
        """True when a training loop must not clip, scale or leave unsynchronized the gradients of this optimizer."""
        return self.accumulation_steps > 1 or self._free_gradients

    @property
    def at_boundary(self) -> bool:
        """True when the last `step()` closed a window, so that the schedule should step too."""
        return self.param_groups[0]["micro_step"] % self.accumulation_steps == 0

    @property
    def _step_supports_amp_scaling(self) -> bool:  # the question GradScaler.step asks first
        if self.folds_gradients:
            raise RuntimeError(
                f"{type(self).__name__} accumulates in its momentum and cannot be stepped by GradScaler: a skipped "
                "step would leave half a window in the momentum. Use bf16 autocast, which needs no scaler"
            )
        return False

    def _fold_states(self, group: dict[str, Any], param: Tensor, grad: Tensor, first: bool) -> None:
        """Add this rank's part of a micro-gradient to the states; `first` of its window."""
        raise NotImplementedError

    def _move_options(self, group: dict[str, Any], param: Tensor) -> dict[str, Any]:
        raise NotImplementedError

    def _fold(self, group: dict[str, Any], param: Tensor) -> None:
        self._check_gradient(param)
        self._init_state(param, group)
        state = self.state[param]
        self._fold_states(group, param, local(gradient_of(param)), first=int(state["folded"]) == 0)
        state["folded"] += 1

    def _init_state(self, param: Tensor, group: dict[str, Any]) -> None:
        super()._init_state(param, group)
        if "folded" not in self.state[param]:
            # gradients folded in since the window began; only then does the parameter move at its end
            self.state[param]["folded"] = torch.zeros((), dtype=torch.float32, device="cpu")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        if not self.folds_gradients:
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._check_group(group)
            for param in group["params"]:
                if param.grad is not None:
                    self._check_gradient(param)
                    if self._seen.is_changed(param):
                        raise RuntimeError(
                            f"{type(self).__name__} accumulates in its momentum, and a gradient was changed between "
                            "backward and step: gradient clipping is not possible here (the mean of clipped gradients "
                            "is not the clipped mean). Turn it off (in transformers' Trainer: max_grad_norm=0)"
                        )
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._fold(group, param)
        self._seen.clear()
        if self._hooks and [id(param) for _, param in self._trained()] != [id(hooked()) for hooked in self._hooked]:
            self._set_hooks()
        micro_step = self.param_groups[0]["micro_step"] + 1
        for group in self.param_groups:
            group["micro_step"] = micro_step
        if self.at_boundary:
            ready = [
                [p for p in group["params"] if self.state.get(p) and int(self.state[p]["folded"])]
                for group in self.param_groups
            ]
            self._update_groups(ready)
            for params in ready:
                for param in params:
                    self.state[param]["folded"].zero_()
        return loss

    def _rule(self, group: dict[str, Any], param: Tensor) -> tuple[Callable, dict[str, Any]]:
        if self.folds_gradients:
            return self._move, self._move_options(group, param)
        return super()._rule(group, param)

    def _foreach_can(self, group: dict[str, Any], param: Tensor) -> bool:
        return not self.folds_gradients and super()._foreach_can(group, param)

    def _gradient_for_update(self, param: Tensor) -> Tensor | None:
        return None if self.folds_gradients else super()._gradient_for_update(param)


class SeenGradients:
    """Gradients as backward left them, to find those that somebody changed before `step`, by clipping for example.

    Only in a single process: several ranks average and reshard gradients after backward.
    """

    def __init__(self):
        self._seen: dict[Tensor, tuple[int, Tensor]] = {}

    def remember(self, param: Tensor) -> None:
        """A hook for `register_post_accumulate_grad_hook`."""
        assert param.grad is not None
        if not is_distributed() and param.grad.layout == torch.strided:
            self._seen[param] = (param.grad._version, _sample(param.grad))

    def is_changed(self, param: Tensor) -> bool:
        if param not in self._seen or param.grad is None:
            return False
        version, sample = self._seen[param]
        # a new version alone may be a multiplication by 1: transformers' Trainer measures the norm that way
        return param.grad._version != version and not torch.equal(_sample(param.grad), sample)

    def clear(self) -> None:
        self._seen.clear()


def _sample(grad: Tensor) -> Tensor:
    """A few elements; clipping changes those of some parameter."""
    return grad.detach().reshape(-1)[:: max(1, grad.numel() // 16)].clone()


def check_accumulation_steps(value: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"accumulation_steps must be a whole number from 1 on, not {value!r}")
