"""Tiger: the sign of the momentum, with a step proportional to the size of the weights.

Source: Su, kexue.fm/archives/9512, github.com/bojone/tiger. One state of the parameters' size, which also accumulates.

Departures from the author's code: kinds of parameters come from modules instead of names; infinite gradients are
caught like NaN; the decision is taken for a whole sharded matrix; inside a window the shrinking waits for the window's
end, and the window's decay happens at its first finite gradient (his is lost when the first micro-gradient is bad).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import ParamsT

from suzoo.optimizers._accumulation import HiddenAccumulation
from suzoo.optimizers._compiled import compiled, number, stored
from suzoo.optimizers._rule import Call, check_not_negative
from suzoo.optimizers._tensors import (
    Rounding,
    cache_pieces,
    compute_dtype,
    full,
    gradient_of,
    local,
    read,
    root_mean_square,
)
from suzoo.optimizers.param_groups import KINDS, SHAPED


def tiger_rms(param: Tensor, kind: str) -> Tensor:
    """RMS of the weights: of a whole matrix (0-d), or of every row of an embedding (..., 1)."""
    if kind == "embedding":
        return full(torch.linalg.vector_norm(param, dim=-1, keepdim=True)) / param.shape[-1] ** 0.5
    return root_mean_square(param)


def all_finite(grad: Tensor) -> Tensor:
    """0-d: True when the gradient has neither NaN nor infinity on any shard."""
    # one pass without a temporary; a sum of finite numbers overflows float32 only where training has exploded
    return full(grad.sum(dtype=compute_dtype(grad))).isfinite()


def tiger_step(
    param: Tensor,
    momentum: Tensor,
    rms: Tensor | None,
    *,
    kind: str,
    lr: float | Tensor,
    weight_decay: float | Tensor,
    rms_floor: float,
) -> Tensor:
    """θ - η (sign(m) + λ θ), with η = lr · RMS(θ), and half of lr and no decay for biases and norm weights."""
    if kind not in SHAPED:
        return param - 0.5 * lr * momentum.sign()
    assert rms is not None
    return param - lr * rms.clamp_min(rms_floor) * (momentum.sign() + weight_decay * param)


def tiger_update(
    param: Tensor,
    grad: Tensor,
    momentum: Tensor,
    *,
    kind: str,
    lr: float | Tensor,
    beta: float,
    weight_decay: float | Tensor,
    rms_floor: float,
    shrink_ratio: float,
    rms: Tensor | None = None,
    finite: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """New parameter and momentum. `rms` and `finite` are given when the tensors are a part of the matrix."""
    if rms is None and kind in SHAPED:
        rms = tiger_rms(param, kind)
    if finite is None:
        finite = all_finite(grad)
    # m ← β m + (1 - β) g
    new_momentum = momentum.lerp(grad, 1 - beta)
    # θ ← θ - η (sign(m) + λ θ)
    new_param = tiger_step(param, new_momentum, rms, kind=kind, lr=lr, weight_decay=weight_decay, rms_floor=rms_floor)
    # a gradient that is not finite leaves m alone and pulls θ towards its neutral value
    center = 1.0 if kind == "norm" else 0.0
    shrunk = center + shrink_ratio * (param - center)
    return torch.where(finite, new_param, shrunk), torch.where(finite, new_momentum, momentum)


def tiger_move(
    param: Tensor,
    momentum: Tensor,
    *,
    kind: str,
    lr: float | Tensor,
    weight_decay: float | Tensor,
    rms_floor: float,
    rms: Tensor | None,
    num_finite: Tensor,
    shrink: Tensor,
) -> tuple[Tensor, Tensor]:
    """The end of an accumulation window: shrink once for every bad micro-gradient, step if there was a good one."""
    center = 1.0 if kind == "norm" else 0.0
    shrunk = center + shrink * (param - center)
    rms = None if rms is None else rms * shrink
    moved = tiger_step(shrunk, momentum, rms, kind=kind, lr=lr, weight_decay=weight_decay, rms_floor=rms_floor)
    return torch.where(num_finite > 0, moved, shrunk), momentum


def _rms_of_sum(param: Tensor, square_sum: Tensor) -> Tensor:
    """`tiger_rms` from Σθ² of a matrix, 0-d, or of the rows of an embedding, (R, 1)."""
    return (square_sum / (param.shape[-1] if square_sum.dim() else param.numel())).sqrt()


def tiger_pass(
    param: Tensor,
    grad: Tensor,
    momentum: Tensor,
    square_sum: Tensor,
    new_square_sum: Tensor,
    lr: Tensor,
    weight_decay: Tensor,
    weight: Tensor,
    *,
    kind: str,
    rms_floor: float,
) -> None:
    """`tiger_update` in place and in one pass over memory, as if the gradient were finite: to read it once before would
    cost a sixth of the time. `tiger_undo` can take the pass back.

    `weight` is 1 - β. `square_sum` of a matrix is 0-d and of an embedding (R, 1). `new_square_sum` becomes that of the
    new weights, or NaN where the gradient was not finite.
    """
    rows = kind == "embedding"
    rms = stored(_rms_of_sum(param, square_sum))
    old, finite = momentum.to(param.dtype), grad.isfinite()
    # NaN and infinity could not be taken out of the momentum again
    new_momentum = torch.where(finite, old + (grad - old) * weight, old)
    new_param = tiger_step(param, new_momentum, rms, kind=kind, lr=lr, weight_decay=weight_decay, rms_floor=rms_floor)
    # one sum for both: inductor does not put two into one loop
    squares = torch.where(finite, new_param.square(), math.nan)
    new_square_sum.copy_(squares.sum(-1, keepdim=True) if rows else squares.sum())
    momentum.copy_(new_momentum)
    param.copy_(new_param)


def tiger_undo(
    param: Tensor,
    grad: Tensor,
    momentum: Tensor,
    rms: Tensor,
    *,
    lr: float,
    beta: float,
    weight_decay: float,
    rms_floor: float,
) -> tuple[Tensor, Tensor]:
    """Parameter and momentum before `tiger_pass`, up to rounding. `rms` is that of the old weights.

    A momentum of which rounding has left less than two bits, because (1 - β) g was so much larger, becomes 0.
    """
    precision = torch.finfo(momentum.dtype).eps
    momentum, folded = momentum.to(param.dtype), (1 - beta) * grad
    rate = lr * rms.clamp_min(rms_floor)
    old_param = (param + rate * momentum.sign()) / (1 - rate * weight_decay)
    # with beta = 0 no step looks at an old momentum
    old_momentum = (momentum - folded) / (beta or math.inf)
    old_momentum.masked_fill_(old_momentum.abs() < 4 * precision * folded.abs(), 0.0)
    return old_param, torch.where(grad.isfinite(), old_momentum, momentum)


class TigerPass(NamedTuple):
    """A `tiger_pass`, to be called once, with Σθ² of the weights before and after it."""

    kernel: Callable[[], object]
    square_sum: Tensor
    new_square_sum: Tensor

    def __call__(self) -> None:
        self.kernel()


def tiger_update_foreach(
    params: list[Tensor],
    grads: list[Tensor],
    momenta: list[Tensor],
    *,
    kind: str,
    lr: float,
    beta: float,
    weight_decay: float,
    rms_floor: float,
    shrink_ratio: float,
) -> None:
    """`tiger_update` on lists, in place. Waits for the device once, to see whether all gradients are finite."""
    if not bool(torch.stack([grad.sum() for grad in grads]).isfinite().all()):
        for param, grad, momentum in zip(params, grads, momenta, strict=True):
            new_param, new_momentum = tiger_update(
                param, grad, momentum, kind=kind, lr=lr, beta=beta, weight_decay=weight_decay, rms_floor=rms_floor,
                shrink_ratio=shrink_ratio,
            )  # fmt: skip
            param.copy_(new_param)
            momentum.copy_(new_momentum)
        return
    rates = None
    if kind in SHAPED:
        rates = [tiger_rms(param, kind).clamp_min(rms_floor).mul_(lr) for param in params]
    pieces = cache_pieces(params, grads, momenta, *([] if rates is None else [rates]))
    for some_params, some_grads, some_momenta, *some_rates in pieces:
        torch._foreach_lerp_(some_momenta, some_grads, 1 - beta)
        directions = torch._foreach_sign(some_momenta)
        if not some_rates:
            torch._foreach_add_(some_params, directions, alpha=-0.5 * lr)
        else:
            torch._foreach_add_(directions, some_params, alpha=weight_decay)
            torch._foreach_mul_(directions, some_rates[0])
            torch._foreach_sub_(some_params, directions)


class Tiger(HiddenAccumulation):
    """Tiger (TIGht-fisted optimizER). Pass it `param_groups(model, weight_decay=...)`, which name the kinds.

    Args:
        params: groups with a `kind`: "matrix" steps by lr * RMS(matrix), "embedding" by lr * RMS(row), "bias" and
            "norm" by lr / 2 without decay. A group without `kind` treats tensors of two dimensions or more as matrices
            and the rest as biases, so its embeddings are not recognized.
        lr: relative change per step, 1e-3 to 2e-3 at the peak.
        beta: 0.965 for language, 0.945 for vision.
        weight_decay: decoupled and relative like the step. Groups of kind "bias" and "norm" ignore it, as the author's.
        rms_floor: least RMS. The author's 0 never moves an all-zero matrix (LoRA's B, a zero-initialized head), about
            which one warning is given; 1e-3 is AdaFactor's choice.
        shrink_ratio: a parameter whose gradient has a NaN or infinity shrinks by this factor (norm weights towards 1)
            and its momentum waits. 1 only skips.
        accumulation_steps: micro-steps per update, see `HiddenAccumulation`.
        free_gradients: fold gradients during backward and free them.
        rounding, foreach, compile: see `RuleOptimizer`. A compiled step sees only at its end that a gradient was not
            finite, and is taken back: the momentum then returns up to rounding, so that a sign near 0 may differ later,
            and becomes 0 beside a finite (1 - β) g two million times as large (of a bf16 momentum, 32 times). On a GPU
            it waits for the device once per group.
        momentum_dtype: see `Lion`; float32 when accumulating.

    Raises:
        ValueError: an option out of range, or an unknown kind.
        RuntimeError: at `step`, a group of matrices holds a flat parameter (FSDP1, DeepSpeed ZeRO): the RMS of a slice
            is not that of the matrix.

    State: one float per parameter.
    """

    _state_names = ("momentum",)
    _needs_matrices = True
    _update = staticmethod(tiger_update)
    _update_foreach = staticmethod(tiger_update_foreach)

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        beta: float = 0.965,
        weight_decay: float = 0.01,
        *,
        rms_floor: float = 0.0,
        shrink_ratio: float = 0.99,
        accumulation_steps: int = 1,
        free_gradients: bool = False,
        rounding: Rounding = "nearest",
        momentum_dtype: torch.dtype | None = None,
        foreach: bool | None = None,
        compile: bool = False,
    ):
        super().__init__(
            params,
            {
                "lr": lr, "beta": beta, "weight_decay": weight_decay, "rms_floor": rms_floor,
                "shrink_ratio": shrink_ratio, "accumulation_steps": accumulation_steps, "micro_step": 0, "lazy": False,
            },
            rounding=rounding,
            momentum_dtype=momentum_dtype,
            foreach=foreach,
            compile=compile,
        )  # fmt: skip
        self._start_accumulating(free_gradients)

    def _check_options(self, options: dict[str, Any]) -> None:
        super()._check_options(options)
        check_not_negative(rms_floor=options["rms_floor"])
        kind, accumulates = options.get("kind"), options["accumulation_steps"] > 1 or self._free_gradients
        if kind is not None and kind not in KINDS:
            raise ValueError(f"Tiger: a group's kind must be one of {', '.join(KINDS)}, not {kind!r}")
        if not 0 <= options["beta"] < 1:
            raise ValueError(f"beta must be in [0, 1), not {options['beta']}")
        if not 0 < options["shrink_ratio"] <= 1:
            raise ValueError(f"shrink_ratio must be in (0, 1], not {options['shrink_ratio']}")
        if options["lazy"]:
            raise ValueError("Tiger has no lazy=True: a row without gradient moves by its momentum")
        if options["momentum_dtype"] == "bfloat16" and accumulates:
            raise ValueError("accumulation adds small parts to the momentum, which bfloat16 would lose: use float32")

    def _slowest_beta(self, options: dict[str, Any]) -> float:
        return options["beta"]

    def _kind(self, group: dict[str, Any], param: Tensor) -> str:
        return group.get("kind") or ("matrix" if param.dim() > 1 else "bias")

    def _new_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        shaped = self._kind(group, param) in SHAPED and param.numel() > 0
        if shaped and group["rms_floor"] == 0 and not full(param.ne(0).sum()):
            warnings.warn(
                f"Tiger will not move an all-zero parameter of shape {(*param.shape,)}, because its step is "
                "proportional to the RMS of the weights; set rms_floor=1e-3",
                stacklevel=4,
            )
        state = super()._new_state(param, group)
        if self.folds_gradients:
            state["num_finite"] = torch.zeros((), dtype=torch.float32, device=param.device)
        return state

    def _options(self, group: dict[str, Any], param: Tensor) -> dict[str, Any]:
        names = ("lr", "beta", "weight_decay", "rms_floor", "shrink_ratio")
        return {"kind": self._kind(group, param), **{name: group[name] for name in names}}

    def _whole_matrix(self, update: Callable, group: dict[str, Any], param: Tensor) -> dict[str, Any]:
        """What a rule must know of the whole matrix when it is run on a piece of it."""
        kind = self._kind(group, param)
        value = read(param, self.state[param].get("compensation"))
        known = {"rms": local(tiger_rms(value, kind)) if kind in SHAPED else None}
        return known | ({"finite": local(all_finite(gradient_of(param)))} if update is self._update else {})

    def _update_plain(self, update: Callable, group: dict[str, Any], param: Tensor, options: dict[str, Any]) -> None:
        super()._update_plain(update, group, param, options | self._whole_matrix(update, group, param))

    def _compiled_update(self, update: Callable, group: dict[str, Any], param: Tensor, options: dict[str, Any]) -> Call:
        if update is self._update and self._passes(group, param):
            return self._one_pass(group, param)
        return super()._compiled_update(update, group, param, options | self._whole_matrix(update, group, param))

    def _passes(self, group: dict[str, Any], param: Tensor) -> bool:
        grad, momentum = gradient_of(param), self.state[param]["momentum"]
        return (
            not isinstance(param, DTensor)
            and self._kind(group, param) in SHAPED
            and param.dtype == grad.dtype == compute_dtype(param)
            and all(t.is_contiguous() for t in (param, grad, momentum))
        )

    def _one_pass(self, group: dict[str, Any], param: Tensor) -> TigerPass:
        kind, grad = self._kind(group, param), gradient_of(param)
        by_rows = kind == "embedding"
        square_sum = self._square_sum(param, by_rows)
        new_square_sum = torch.empty_like(square_sum)
        numbers = (group["lr"], group["weight_decay"], 1 - group["beta"])
        kernel = compiled(
            tiger_pass,
            (
                param.detach(),
                grad,
                self.state[param]["momentum"],
                square_sum,
                new_square_sum,
                *(number(value, param.dtype, param.device) for value in numbers),
            ),
            flat=not by_rows,
            kind=kind,
            rms_floor=group["rms_floor"],
        )
        return TigerPass(kernel, square_sum, new_square_sum)

    def _settle(self, group: dict[str, Any], passes: dict[Tensor, TigerPass]) -> None:
        """Take back the passes whose gradient was not finite, and do those steps in the plain form."""
        # one wait for the device, and almost always the end
        sums = torch.cat([done.new_square_sum.view(-1) for done in passes.values()])
        all_finite = bool(sums.isfinite().all())
        for param, done in passes.items():
            if all_finite or done.new_square_sum.isfinite().all():
                self.state[param]["square_sum"] = done.new_square_sum
                continue
            del self.state[param]["square_sum"]  # what follows does not keep it up to date
            self._take_back(group, param, done.square_sum)
            self._update_plain(self._update, group, param, self._options(group, param))

    def _take_back(self, group: dict[str, Any], param: Tensor, square_sum: Tensor) -> None:
        options = {name: group[name] for name in ("lr", "beta", "weight_decay", "rms_floor")}
        rms = _rms_of_sum(param, square_sum)
        for piece in cache_pieces([param], [gradient_of(param)], [self.state[param]["momentum"]], [rms]):
            values, grads, momenta, rms_of_piece = (tensors[0] for tensors in piece)
            old_values, old_momenta = tiger_undo(values, grads, momenta, rms_of_piece, **options)
            values.copy_(old_values)
            momenta.copy_(old_momenta)

    def _foreach_can(self, group: dict[str, Any], param: Tensor) -> bool:
        return not isinstance(param, DTensor) and super()._foreach_can(group, param)

    def _by_rows(self, group: dict[str, Any], param: Tensor) -> bool:
        return self._kind(group, param) == "embedding"

    # --- accumulation

    def _fold_states(self, group: dict[str, Any], param: Tensor, grad: Tensor, first: bool) -> None:
        momentum, num_finite = local(self.state[param]["momentum"]), self.state[param]["num_finite"]
        finite = local(all_finite(gradient_of(param)))
        # m ← [(β - 1) χ + 1] m + (1 - β) / k g
        keep = 1 - (1 - group["beta"]) * (num_finite == 0).to(momentum.dtype)
        folded = momentum * keep + grad.to(momentum.dtype) * ((1 - group["beta"]) / group["accumulation_steps"])
        momentum.copy_(torch.where(finite, folded, momentum))
        num_finite += finite

    def _move_options(self, group: dict[str, Any], param: Tensor) -> dict[str, Any]:
        state = self.state[param]
        num_bad = state["folded"].to(param.device) - state["num_finite"]
        return {
            **{name: group[name] for name in ("lr", "weight_decay", "rms_floor")},
            "kind": self._kind(group, param),
            "num_finite": state["num_finite"],
            "shrink": group["shrink_ratio"] ** num_bad.to(state["momentum"].dtype),
        }

    _move = staticmethod(tiger_move)

    def _update_params(self, group: dict[str, Any], params: list[Tensor], calls: dict[Tensor, Call]) -> None:
        super()._update_params(group, params, calls)
        passes = {param: call for param, call in calls.items() if isinstance(call, TigerPass)}
        if passes:
            self._settle(group, passes)
        if self.folds_gradients:
            for param in params:
                self.state[param]["num_finite"].zero_()
