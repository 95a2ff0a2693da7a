"""What an optimizer is: a frozen `Rule` of pure functions and option ranges, which `_driver.RuleOptimizer` runs.

A minimal one is one function and one rule (CONTRIBUTING.md, "Add an optimizer"); all other fields have defaults.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from suzoo.optimizers._compiled import scalar
from suzoo.optimizers._tensors import ROUNDINGS, Rounding, cache_pieces, compute_dtype, local, read, write

Group = Mapping[str, Any]


# --- options


class Range(NamedTuple):
    """The values an option may have: a test of one, and what to say about the others."""

    text: str
    holds: Callable[[Any], bool]

    def check(self, owner: str, name: str, value: Any) -> None:
        if not self.holds(value):
            raise ValueError(f"{owner}: {name} must be {self.text}, not {value!r}")


def number(text: str, holds: Callable[[float], bool]) -> Range:
    """A number (no bool) that is not NaN, for which `holds` is true."""
    return Range(text, lambda v: isinstance(v, int | float) and not isinstance(v, bool) and v == v and holds(v))


def pair(text: str, first: Range, second: Range) -> Range:
    return Range(
        text, lambda v: isinstance(v, tuple | list) and len(v) == 2 and first.holds(v[0]) and second.holds(v[1])
    )


def optional(of: Range) -> Range:
    return Range(f"None or {of.text}", lambda v: v is None or of.holds(v))


def one_of(*choices: str) -> Range:
    return Range(f"one of {', '.join(choices)}", lambda v: isinstance(v, str) and v in choices)


NOT_NEGATIVE = number("a finite number and not negative", lambda v: 0 <= v < math.inf)
POSITIVE = number("a positive, finite number", lambda v: 0 < v < math.inf)
BELOW_1 = number("a number in [0, 1)", lambda v: 0 <= v < 1)
BETAS = pair("two numbers in [0, 1)", BELOW_1, BELOW_1)
EPS = number("at least 1e-30, or 0 / 0 appears", lambda v: 1e-30 <= v < math.inf)
FLAG = Range("True or False", lambda v: isinstance(v, bool))
COUNT = Range("a whole number from 1 on", lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 1)
FOREACH = Range("None, True or False", lambda v: v is None or isinstance(v, bool))
MOMENTUM_DTYPE = Range("None, torch.float32 or torch.bfloat16", lambda v: v in (None, "float32", "bfloat16"))

# of every optimizer
COMMON = {"lr": NOT_NEGATIVE, "weight_decay": NOT_NEGATIVE, "rounding": one_of(*ROUNDINGS), "compile": FLAG}
# of those whose rule names them; for the others a group may only say that they are off
OFFERED = {"lazy": False, "momentum_dtype": None, "accumulation_steps": 1}


def check_bfloat16_momentum(options: Group, beta: float) -> None:
    if options["momentum_dtype"] == "bfloat16" and beta > 0.99:
        raise ValueError(
            f"a bfloat16 momentum cannot decay by {beta}: from 0.995 on m * beta rounds back to m. Use beta <= 0.99 or "
            "a float32 momentum"
        )


def momentum_dtype(group: Group, param: Tensor) -> torch.dtype:
    name = group.get("momentum_dtype")
    return getattr(torch, name) if name else compute_dtype(param)


def plain_types(options: dict[str, Any]) -> dict[str, Any]:
    """As groups keep options, because checkpoints hold plain types: a dtype by its name."""
    return {
        name: str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value
        for name, value in options.items()
    }


# --- one parameter in one step


@dataclass(slots=True)
class Job:
    """What a step does with one parameter.

    Attributes:
        param, grad: sharded alike (DTensor) or not at all. Without grad the states alone move the parameter: the end of
            an accumulation window.
        update: `rule.update`, or `rule.move` at the end of a window.
        names: of the states that it takes, in its order.
        arguments: its keyword arguments, shared by the parameters of equal ones.
    """

    rule: Rule
    param: Tensor
    grad: Tensor | None
    state: dict[str, Any]
    group: dict[str, Any]
    kind: Any
    update: Callable
    names: tuple[str, ...]
    arguments: dict[str, Any]
    sums: SquareSums

    @property
    def lazy(self) -> bool:
        return bool(self.group.get("lazy"))

    @property
    def tensors(self) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...], Tensor | None]:
        """This rank's part of the parameter, gradient, states and compensation."""
        grad, compensation = self.grad, self.state.get("compensation")
        return (
            local(self.param).detach(),
            None if grad is None else local(grad),
            tuple([local(self.state[name]) for name in self.names]),
            None if compensation is None else local(compensation),
        )


class Kernel(NamedTuple):
    """What `_compiled.compiled` takes, for one job.

    `square_sum`: the kernel leaves there the sum of the squares of the new weights (see `SquareSums`).
    """

    function: Callable
    tensors: tuple[Tensor | None, ...]
    options: dict[str, Any]
    flat: bool = False
    square_sum: bool = False


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
    update: Callable,
    param: Tensor,
    grad: Tensor | None,
    states: tuple[Tensor, ...],
    compensation: Tensor | None,
    rounding: Rounding,
    lazy: bool,
    options: dict[str, Any],
) -> None:
    """Run a rule on one tensor (or a piece of one) and store what it returns. All reads come before the first write:
    compiled, that is one pass over memory. Without grad, the rule moves the parameter by its states alone."""
    dtype = compute_dtype(param)
    value = read(param, compensation)
    old_states = [state.to(dtype) for state in states]
    grads = [] if grad is None else [grad.to(dtype)]
    new_value, *new_states = update(value, *grads, *old_states, **options)
    if lazy:
        assert grad is not None
        touched = grad.ne(0).any(-1, keepdim=True) if grad.dim() > 1 else grad.ne(0)
        new_value = torch.where(touched, new_value, value)
        new_states = [torch.where(touched, new, old) for new, old in zip(new_states, old_states, strict=True)]
    for state, new in zip(states, new_states, strict=True):
        state.copy_(new)
    write(param, new_value, compensation, rounding)


def apply_in_pieces(job: Job) -> None:
    """The plain form: this rank's part, on a CPU in pieces that stay in the cache."""
    value, grad, states, compensation = job.tensors
    by_row = {name: v for name, v in job.arguments.items() if isinstance(v, Tensor) and v.dim()}
    tensors = [value, *states, *by_row.values(), *(t for t in (grad, compensation) if t is not None)]
    for piece in cache_pieces(*([t] for t in tensors)):
        taken = iter([part[0] for part in piece])
        apply_update(
            job.update,
            param=next(taken),
            states=tuple(next(taken) for _ in states),
            options=job.arguments | {name: next(taken) for name in by_row},
            grad=None if grad is None else next(taken),
            compensation=None if compensation is None else next(taken),
            rounding=job.group["rounding"],
            lazy=job.lazy,
        )


def update_kernel(
    param: Tensor,
    grad: Tensor | None,
    compensation: Tensor | None,
    *rest: Tensor,
    update: Callable,
    num_states: int,
    names: tuple[str, ...],
    rounding: Rounding,
    lazy: bool,
    **options: Any,
) -> None:
    """`apply_update` as `compiled` takes it: the states and the options that are tensors (`names`) follow, of which
    "square_sum" becomes that of the new weights."""
    states, named = rest[:num_states], dict(zip(names, rest[num_states:], strict=True))
    apply_update(update, param, grad, states, compensation, rounding, lazy, options | named)
    if (square_sum := named.get("square_sum")) is not None:
        squares = read(param, compensation).square()
        square_sum.copy_(squares.sum(-1, keepdim=True))


def kernel_of_update(job: Job) -> Kernel | None:
    """The compiled form: `apply_update` on this rank's part, in one pass."""
    value, grad, states, compensation = job.tensors
    tensors = (value, grad, compensation, *states)
    dtype = compute_dtype(value)
    named = {
        name: option if isinstance(option, Tensor) else scalar(option, dtype, value.device)
        for name, option in job.arguments.items()
        if name in job.rule.traced or isinstance(option, Tensor)
    }
    by_rows = job.lazy or job.kind in job.rule.row_kinds
    return Kernel(
        update_kernel,
        (*tensors, *named.values()),
        {
            "update": job.update,
            "num_states": len(states),
            "names": tuple(named),
            "rounding": job.group["rounding"],
            "lazy": job.lazy,
            **{name: option for name, option in job.arguments.items() if name not in named},
        },
        flat=not by_rows and all([t is None or t.is_contiguous() for t in tensors]),
        square_sum="square_sum" in named,
    )


# --- the rule


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What the driver must know of an optimizer.

    Attributes:
        update: `(param, grad, *states, **arguments) -> (new param, *new states)`, pure, in float32 or float64. Its
            keyword-only parameters are options of the group (`betas` as beta1 and beta2) or numbers of `derived`.
        states: names of its states, of the parameter's shape, zero at first; "momentum" may be kept in bfloat16.
        options: ranges of the options beyond lr, weight_decay, rounding, foreach and compile. Naming "lazy",
            "momentum_dtype" or "accumulation_steps" offers what the driver does with them.
        check: raises ValueError for options that do not fit together, given all of a group.
        kind: (group, param) -> what else its arguments depend on, such as the kind of the parameter.
        derived: (group, kind, step) -> arguments that follow from the options; the first step is 1.
        new_state: (param, group, kind) -> states, where they are not all zeros of the parameter's shape.
        foreach: `update` on lists of tensors, in place, with the same arguments; None if there is no such form.
        foreach_up_to: elements of the largest tensor that this form takes.
        apply: the plain form of a job.
        kernel: (job) -> what to compile for it, or None where there is nothing to compile.
        needs_matrices: the update reduces over the whole tensor: flat pieces are refused.
        row_kinds: kinds for which it treats rows (the last dimension) as units.
        traced: arguments that change from step to step, tensors to a kernel, so that nothing is compiled again.
        knows_finite: `update` has an argument `finite`, a 0-d bool tensor when somebody has looked, else None.
        fold: (job, first) adds a micro-gradient to the states; `first` of its window. None: no hidden accumulation.
        move: `update` without gradient, at the end of a window.
        counters: names of 0-d states beside the parameter that count within a window.
    """

    update: Callable
    states: tuple[str, ...] = ()
    options: Mapping[str, Range]
    check: Callable[[Group], None] | None = None
    kind: Callable[[Group, Tensor], Hashable] | None = None
    derived: Callable[[Group, Any, float], dict[str, Any]] | None = None
    new_state: Callable[[Tensor, Group, Any], dict[str, Tensor]] | None = None
    foreach: Callable | None = None
    foreach_up_to: float = math.inf
    apply: Callable[[Job], None] = apply_in_pieces
    kernel: Callable[[Job], Kernel | None] = kernel_of_update
    needs_matrices: bool = False
    row_kinds: tuple[str, ...] = ()
    traced: tuple[str, ...] = ("lr", "weight_decay", "beta", "beta1", "beta2")
    knows_finite: bool = False
    fold: Callable[[Job, bool], None] | None = None
    move: Callable | None = None
    counters: tuple[str, ...] = ()

    def check_options(self, owner: str, options: Group) -> None:
        """Raise a ValueError for an option of a group that is out of range, or that this optimizer does not have."""
        ranges = {**COMMON, **self.options}
        if self.foreach is not None:
            ranges["foreach"] = FOREACH
        elif options.get("foreach"):
            raise ValueError(f"{owner} has no multi-tensor form: leave foreach out of the group")
        for name, allowed in ranges.items():
            allowed.check(owner, name, options[name])
        for name, off in OFFERED.items():
            if name not in self.options and options.get(name, off) != off:
                raise ValueError(f"{owner} has no {name}={options[name]!r}: leave {name} out of the group")
        if self.check is not None:
            self.check(options)

    def arguments(self, update: Callable, group: Group, kind: Hashable, step: float) -> dict[str, Any]:
        values = dict(group)
        if "betas" in self.options:
            values["beta1"], values["beta2"] = values["betas"]
        if self.derived is not None:
            values.update(self.derived(group, kind, step))
        values["kind"] = kind
        return {name: values[name] for name in _keywords(update) if name in values}


@functools.cache
def _keywords(function: Callable) -> tuple[str, ...]:
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind == inspect.Parameter.KEYWORD_ONLY)
