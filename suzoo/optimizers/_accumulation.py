"""Accumulation hidden in momentum: every micro-step's gradient joins the momentum at once, every k-th step moves.

Source: Su, kexue.fm/archives/8634. With χ = 1 at the first gradient of a window of k micro-steps and 0 after it,

    m ← [(β - 1) χ + 1] m + (1 - β) / k · g

leaves after k micro-steps exactly the momentum of the window's mean gradient, because the parameters stand still inside
a window. No second buffer of gradient size is needed. The step of `_driver.RuleOptimizer` folds and moves; here is what
watches and takes gradients on their way to it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from suzoo.distributed import is_distributed
from suzoo.optimizers._tensors import local


class GradientHooks:
    """Hooks that see each gradient the moment backward has it.

    `take`, if given, gets the number of the group and the parameter, whose gradient is then freed: a full set of
    gradients never exists. Without it the gradients are remembered, to find those that somebody changes before `step`.
    """

    def __init__(self, take: Callable[[int, Tensor], None] | None):
        self.take = take
        self.seen = SeenGradients()
        self._hooks: list = []
        self._hooked: list[weakref.ref] = []

    def follow(self, groups: list[dict]) -> None:
        """Be on the parameters that can get a gradient; Accelerate puts sharded ones into the place of those given."""
        trained = [(i, p) for i, group in enumerate(groups) for p in group["params"] if p.requires_grad]
        if [id(p) for _, p in trained] == [id(hooked()) for hooked in self._hooked]:
            return
        self.remove()
        self._hooks = [p.register_post_accumulate_grad_hook(self._hook_of(i)) for i, p in trained]
        self._hooked = [weakref.ref(p) for _, p in trained]

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._hooked = [], []

    def _hook_of(self, index: int) -> Callable[[Tensor], None]:
        if self.take is None:
            return self.seen.remember

        def hook(param: Tensor) -> None:
            refuse_under_ddp(param)
            assert self.take is not None
            self.take(index, param)
            param.grad = None

        return hook


def refuse_under_ddp(param: Tensor) -> None:
    if is_distributed() and not isinstance(param, DTensor):
        raise RuntimeError(
            "free_gradients=True takes the gradient before DistributedDataParallel has averaged it over the ranks; use "
            "FSDP2, or leave free_gradients off"
        )


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

    def any_changed(self, params: Iterable[Tensor]) -> bool:
        by_device: dict[torch.device, list[Tensor]] = {}
        for param in params:
            if param not in self._seen or param.grad is None:
                continue
            version, sample = self._seen[param]
            # a new version alone may be a multiplication by 1: transformers' Trainer measures the norm that way
            if param.grad._version != version:
                differs = (_sample(param.grad) != sample).any()
                by_device.setdefault(differs.device, []).append(differs)
        # one read, where each would wait
        return any(bool(torch.stack(differ).any()) for differ in by_device.values())

    def clear(self) -> None:
        self._seen.clear()


def _sample(grad: Tensor) -> Tensor:
    """A few elements; clipping changes those of some parameter."""
    return grad.detach().reshape(-1)[:: max(1, grad.numel() // 16)].clone()


def only_makes_state(optimizer: torch.optim.Optimizer) -> bool:
    """True in the step by which torch.distributed.checkpoint makes the state of a fresh optimizer: rates and gradients
    are 0. It is none of the run's micro-steps."""
    groups = optimizer.param_groups
    if any(optimizer.state.values()) or any(group["lr"] != 0 for group in groups):
        return False
    grads = [param.grad for group in groups for param in group["params"] if param.requires_grad]
    return all(grad is not None and not local(grad).any() for grad in grads)
