"""What an optimizer is: a frozen `Rule` of pure functions, which `_driver.RuleOptimizer` runs.

A minimal one is one function and one rule (CONTRIBUTING.md, "Add an optimizer"); all other fields have defaults.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from suzoo.optimizers._compiled import scalar
from suzoo.optimizers._options import Range
from suzoo.optimizers._tensors import Rounding, compute_dtype, local, named_pieces, read, write

Group = Mapping[str, Any]


def momentum_dtype(group: Group, param: Tensor) -> torch.dtype:
    name = group.get("momentum_dtype")
    return getattr(torch, name) if name else compute_dtype(param)


# --- one parameter in one step


@dataclass(slots=True)
class Job:
    """What a step does with one parameter.

    Attributes:
        param, grad: sharded alike (DTensor) or not at all. Without grad the states alone move the parameter: the end of
            an accumulation window.
        states: of the rule, in its order; `state` has others beside them.
        kind: see `Rule`.
        arguments: of `update`, shared by the parameters of equal ones.
        sums: of the squares of weights, for who needs them.
    """

    rule: Rule
    param: Tensor
    grad: Tensor | None
    states: dict[str, Tensor]
    state: dict[str, Any]
    group: dict[str, Any]
    kind: Any
    arguments: dict[str, Any]
    sums: SquareSums

    @property
    def update(self) -> Callable:
        update = self.rule.move if self.grad is None else self.rule.update
        assert update is not None
        return update

    @property
    def tensors(self) -> dict[str, Any]:
        """All that the step reads and writes, as `apply_update` names it."""
        tensors = {"param": self.param.detach(), "grad": self.grad, "compensation": self.state.get("compensation")}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None} | self.states

    @property
    def manner(self) -> dict[str, Any]:
        """The other arguments of `apply_update`."""
        return {"update": self.update, "states": tuple(self.states), "rounding": self.group["rounding"]}


class Work(NamedTuple):
    """`function(**tensors, **options)`, which changes the tensors in place.

    A tensor "square_sum" has the sum of the squares of the weights and gets that of the new ones (see `SquareSums`).
    `flat`: compiled, the tensors may have any shape of their size.
    """

    function: Callable
    tensors: dict[str, Tensor]
    options: dict[str, Any]
    flat: bool = False


class SquareSums:
    """Σθ², for rules whose step follows the size of the weights: the kernel that moves them sums on its way, and leaves
    the sum to the next step."""

    def __init__(self):
        self._sums: dict[Tensor, tuple[int, Tensor]] = {}

    def of(self, param: Tensor, compensation: Tensor | None, shape: Sequence[int]) -> Tensor:
        """Over the last dimension, which is kept as 1, of a contiguous parameter seen in that shape."""
        version, total = self._sums.get(param, (-1, None))
        # new, or changed by somebody else; what changes weights behind the counter (`param.data`) is seen a step later
        if total is None or version != param._version or total.shape[:-1] != shape[:-1]:
            total = read(param.detach(), compensation).square().view(shape).sum(-1, keepdim=True)
            self._sums[param] = (-1, total)
        return total

    def keep(self, param: Tensor) -> None:
        """A kernel has changed the parameter, and the sum with it."""
        self._sums[param] = (param._version, self._sums[param][1])

    def clear(self) -> None:
        self._sums.clear()


# --- the plain and the compiled form of any rule


def apply_update(
    param: Tensor,
    grad: Tensor | None = None,
    compensation: Tensor | None = None,
    touched: Tensor | None = None,
    *,
    update: Callable,
    states: tuple[str, ...],
    rounding: Rounding,
    **given: Any,
) -> None:
    """Run a rule on one tensor (or a piece of one) and store what it returns. All reads come before the first write:
    compiled, that is one pass over memory.

    Args:
        grad: None where the rule moves the parameter by its states alone.
        touched: True where anything changes; None is everywhere.
        given: the states, and the arguments of `update`.
    """
    dtype = compute_dtype(param)
    value = read(param, compensation)
    kept = [given.pop(name) for name in states]
    olds = [state.to(dtype) for state in kept]
    grads = [] if grad is None else [grad.to(dtype)]
    new_value, *news = update(value, *grads, *olds, **given)
    if touched is not None:
        new_value = torch.where(touched, new_value, value)
        news = [torch.where(touched, new, old) for new, old in zip(news, olds, strict=True)]
    for state, new in zip(kept, news, strict=True):
        state.copy_(new)
    write(param, new_value, compensation, rounding)
    if "square_sum" in given:
        given["square_sum"].copy_(read(param, compensation).square().sum(-1, keepdim=True))


def update_of(job: Job, compile: bool) -> Work:
    """`apply_update` on this rank's part."""
    rule = job.rule
    tensors = {name: local(tensor) for name, tensor in job.tensors.items()}
    lazy = job.group.get("lazy")
    flat = not lazy and job.kind not in rule.row_kinds and all([t.is_contiguous() for t in tensors.values()])
    if lazy:
        # ahead of the kernel: inductor (torch 2.13) fails to fuse this reduction with the writes
        nonzero = tensors["grad"].ne(0)
        tensors["touched"] = nonzero.any(-1, keepdim=True) if nonzero.dim() > 1 else nonzero
    options = job.manner
    arguments = job.arguments if rule.whole is None else job.arguments | rule.whole(job, compile)
    for name, value in arguments.items():
        if compile and name in rule.traced:
            value = scalar(value, compute_dtype(job.param), tensors["param"].device)
        (tensors if isinstance(value, Tensor) else options)[name] = value
    return Work(apply_update, tensors, options, flat)


def kernel_of_update(job: Job) -> Work:
    return update_of(job, compile=True)


def apply_in_pieces(job: Job) -> None:
    """The plain form, on a CPU in pieces that stay in the cache."""
    work = update_of(job, compile=False)
    for piece in named_pieces(work.tensors):
        work.function(**piece, **work.options)


# --- the rule


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What the driver must know of an optimizer.

    Attributes:
        update: `(param, grad, *states, **arguments) -> (new param, *new states)`, pure, in float32 or float64, without
            decisions on values (compiled, and on accelerators by `torch.vmap`, there are none). Its
            keyword-only parameters are options of the group (`betas` as beta1 and beta2), numbers of `derived`, or
            `finite`: a 0-d tensor of True where somebody knows that gradients are finite, else None.
        states: names of its states, of the parameter's shape, zero at first; "momentum" may be kept in bfloat16.
        options: ranges of the options beyond lr, weight_decay, rounding, foreach and compile. Naming "lazy",
            "momentum_dtype" or "accumulation_steps" offers what the driver does with them.
        check: raises ValueError for options that do not fit together, given all of a group.
        kind: (group, param) -> what else its arguments depend on, such as the kind of the parameter.
        derived: (group, kind, step) -> arguments that follow from the options; the first step is 1.
        new_state: (param, group, kind) -> states, where they are not all zeros of the parameter's shape.
        foreach: `update` on lists of tensors, in place, with the same arguments; None if there is no such form.
        stack_up_to: elements of the largest tensor that is updated together with others of its shape on a CPU, too
            (see `_stacks`).
        whole: (job, compile) -> arguments that tell of the whole tensor, for an `update` that is run on pieces of it,
            or compiled on this rank's part.
        apply: the plain form of a job.
        kernel: (job) -> what to compile for it, or None where there is nothing to compile.
        needs_matrices: the update reduces over the whole tensor: flat pieces are refused.
        row_kinds: kinds for which it treats rows (the last dimension) as units.
        traced: numbers that change from step to step, tensors to a kernel, so that nothing is compiled again.
        fold: (job, first) adds a micro-gradient to the states; `first` of its window. None: no hidden accumulation.
        move: `update` without gradient, at the end of a window.
        counters: names of 0-d states beside the parameter that count within a window.
    """

    update: Callable
    states: tuple[str, ...] = ()
    options: Mapping[str, Range]
    check: Callable[[Group], None] | None = None
    kind: Callable[[Group, Tensor], Hashable] = lambda group, param: None
    derived: Callable[[Group, Any, float], dict[str, Any]] | None = None
    new_state: Callable[[Tensor, Group, Any], dict[str, Tensor]] | None = None
    foreach: Callable | None = None
    stack_up_to: int = 0
    whole: Callable[[Job, bool], dict[str, Any]] | None = None
    apply: Callable[[Job], None] = apply_in_pieces
    kernel: Callable[[Job], Work | None] = kernel_of_update
    needs_matrices: bool = False
    row_kinds: tuple[str, ...] = ()
    traced: tuple[str, ...] = ("lr", "weight_decay", "beta", "beta1", "beta2")
    fold: Callable[[Job, bool], None] | None = None
    move: Callable | None = None
    counters: tuple[str, ...] = ()

    def __post_init__(self):
        named = "accumulation_steps" in self.options
        assert named == (self.fold is not None) == (self.move is not None), "accumulation needs all three"

    @property
    def knows_finite(self) -> bool:
        return "finite" in _keywords(self.update)

    def arguments(self, update: Callable, group: Group, kind: Hashable, step: float, **known: Any) -> dict[str, Any]:
        """The keyword arguments of `update`."""
        values: dict[str, Any] = {**group, "kind": kind, **known}
        if "betas" in self.options:
            values["beta1"], values["beta2"] = values["betas"]
        if self.derived is not None:
            values.update(self.derived(group, kind, step))
        return {name: values[name] for name in _keywords(update) if name in values}


@functools.cache
def _keywords(function: Callable) -> tuple[str, ...]:
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind == inspect.Parameter.KEYWORD_ONLY)
