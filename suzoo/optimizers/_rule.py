"""The bookkeeping all optimizers here share: state, precision, checkpoints, and which kernels run an update.

A rule is a pure function `update(param, grad, *states, **options) -> (new_param, *new_states)` in float32 or float64.
`RuleOptimizer` reads and stores the tensors around it: tensor by tensor (the plain form, on a CPU in pieces that stay
in the cache), by the rule's multi-tensor form, or compiled into one kernel.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Generator
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT, StateDict

from suzoo.optimizers._compiled import compiled, number
from suzoo.optimizers._tensors import (
    LOW_PARTS,
    ROUNDINGS,
    Rounding,
    cache_pieces,
    compute_dtype,
    gradient_of,
    local,
    read,
    write,
)
from suzoo.optimizers.param_groups import is_flat_piece

Call = Callable[[], object]  # updates one parameter
COMPILE_FROM = 1 << 18  # elements; smaller tensors are not worth a compilation for their shape


def check_not_negative(**values: float) -> None:
    for name, value in values.items():
        if not isinstance(value, int | float) or not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be a finite number and not negative, not {value!r}")


def check_betas(*, betas: tuple[float, float]) -> None:
    if not isinstance(betas, tuple | list) or len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must be two numbers in [0, 1), not {betas!r}")


def _dtype_name(dtype: torch.dtype | str | None) -> str | None:
    """As groups keep it, because checkpoints hold plain types."""
    name = dtype if dtype is None else str(dtype).removeprefix("torch.")
    if name not in (None, "float32", "bfloat16"):
        raise ValueError(f"momentum_dtype must be None, torch.float32 or torch.bfloat16, not {dtype}")
    return name


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
    """`apply_update` as `compiled` takes it: the states and the options that are tensors (`names`) follow."""
    states, named = rest[:num_states], dict(zip(names, rest[num_states:], strict=True))
    apply_update(update, param, grad, states, compensation, rounding, lazy, options | named)


@contextlib.contextmanager
def _noise_of_step(params: list[list[Tensor]], step: int) -> Generator[None]:
    """Random numbers that follow from the step: copies of the weights on several ranks round alike, and a resumed run
    as the one that was not interrupted. The generators of the caller stay as they are."""
    devices = {p.device.index for group in params for p in group if p.is_cuda}
    with torch.random.fork_rng(sorted(devices)):
        for generator in (torch.default_generator, *(torch.cuda.default_generators[i] for i in devices)):
            generator.manual_seed(step)
        yield


class RuleOptimizer(torch.optim.Optimizer):
    """Base of the optimizers: state in float32 whatever the parameters are, exact resume, sharded parameters.

    What every subclass promises, and `tests/optimizers/test_conformance.py` checks:

    - state is created at a parameter's first gradient; a parameter without gradient is not touched and does not count
      the step; state_dict holds tensors and plain JSON types and resumes to the same bits, also for bf16 parameters;
    - `lr` of the group is read at every step, so any torch scheduler drives it;
    - FSDP2 (DTensor) parameters give what unsharded ones give;
    - rounding: how a bf16 or fp16 parameter takes a new value. "nearest" loses every update smaller than half a unit in
      the last place (bf16: 0.4 % of the weight) and says so once. "kahan" keeps the lost part in one more low-precision
      tensor, "master" in a float32 one: together with the parameter that is float32 training to the bit. "stochastic"
      (bf16) rounds up or down at random so that the mean is right, on all ranks alike;
    - foreach (in-place kernels on lists; off only with False) and compile (one pass over memory by inductor, for
      large tensors) change the speed, not the result up to the last bits.
    """

    _state_names: ClassVar[tuple[str, ...]] = ()
    _cpu_states: ClassVar[tuple[str, ...]] = ("step",)  # read at every step, without waiting for a device
    # options that schedules change, OneCycleLR the betas too: tensors to a kernel, so that nothing is compiled again
    _traced: ClassVar[tuple[str, ...]] = ("lr", "weight_decay", "beta", "beta1", "beta2")
    _update: ClassVar[Callable]
    _update_foreach: ClassVar[Callable]
    _needs_matrices: ClassVar[bool] = False
    _warned_of_rounding = False

    def __init__(
        self,
        params: ParamsT,
        defaults: dict[str, Any],
        *,
        rounding: Rounding,
        foreach: bool | None,
        compile: bool,
        momentum_dtype: torch.dtype | None = None,
    ):
        self._versions: dict[Tensor, int] = {}  # of parameters, when their "square_sum" was right
        super().__init__(
            params,
            {
                **defaults, "rounding": rounding, "momentum_dtype": _dtype_name(momentum_dtype), "foreach": foreach,
                "compile": compile,
            },
        )  # fmt: skip

    # --- what a rule defines

    def _check_options(self, options: dict[str, Any]) -> None:
        """Raise a ValueError for an option of a group that is out of range."""
        check_not_negative(lr=options["lr"], weight_decay=options["weight_decay"])
        if options["rounding"] not in ROUNDINGS:
            raise ValueError(f"rounding must be one of {', '.join(ROUNDINGS)}, not {options['rounding']!r}")
        if options["momentum_dtype"] == "bfloat16" and self._slowest_beta(options) > 0.99:
            raise ValueError(
                f"a bfloat16 momentum cannot decay by {self._slowest_beta(options)}: from 0.995 on m * beta rounds "
                "back to m. Use beta <= 0.99 or a float32 momentum"
            )

    def _slowest_beta(self, options: dict[str, Any]) -> float:
        """The β of the momentum that is stored."""
        return 0.0

    def _options(self, group: dict[str, Any], param: Tensor) -> dict[str, Any]:
        """The rule's keyword arguments: numbers and strings, equal for parameters that may be updated together."""
        raise NotImplementedError

    def _rule(self, group: dict[str, Any], param: Tensor) -> tuple[Callable, dict[str, Any]]:
        """What updates the parameter in this step, and its options."""
        return self._update, self._options(group, param)

    def _new_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        dtypes = {"momentum": self._momentum_dtype(group, param)}
        return {
            name: torch.zeros_like(param, dtype=dtypes.get(name, compute_dtype(param))) for name in self._state_names
        }

    @staticmethod
    def _momentum_dtype(group: dict[str, Any], param: Tensor) -> torch.dtype:
        return getattr(torch, group["momentum_dtype"]) if group["momentum_dtype"] else compute_dtype(param)

    # --- the step

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if isinstance(param_group, dict):  # of other types torch says what is wrong
            if "momentum_dtype" in param_group:
                param_group["momentum_dtype"] = _dtype_name(param_group["momentum_dtype"])
            self._check_options({**self.defaults, **param_group})
        super().add_param_group(param_group)
        try:
            for param in self.param_groups[-1]["params"]:
                self._check_param(param, self.param_groups[-1])
        except ValueError:
            del self.param_groups[-1]
            raise

    def _check_param(self, param: Tensor, group: dict[str, Any]) -> None:
        if not param.is_floating_point():
            raise ValueError(f"{type(self).__name__} trains real parameters, not one of {param.dtype}")
        if param.dtype == torch.float16 and group["rounding"] == "stochastic":
            raise ValueError("stochastic rounding is for bfloat16 parameters; use 'kahan' for float16")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update. `closure`, if given, reevaluates the loss first; its value is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        ready = [[param for param in group["params"] if param.grad is not None] for group in self.param_groups]
        for group, params in zip(self.param_groups, ready, strict=True):
            self._check_group(group)
            for param in params:
                self._check_gradient(param)
        for group, params in zip(self.param_groups, ready, strict=True):
            for param in params:
                self._init_state(param, group)
        self._update_groups(ready)
        return loss

    def _update_groups(self, ready: list[list[Tensor]]) -> None:
        """Count the step and update these parameters of every group. What can fail comes before the first change."""
        steps = [self.state[param]["step"] for params in ready for param in params]
        if not steps:
            return
        torch._foreach_add_(steps, 1)
        work = list(zip(self.param_groups, ready, strict=True))
        try:
            calls = [self._compiled_calls(group, params) for group, params in work]
        except BaseException:  # also of somebody who does not want to wait for the compiler
            torch._foreach_sub_(steps, 1)
            raise
        noise = any(group["rounding"] == "stochastic" for group in self.param_groups)
        with _noise_of_step(ready, int(steps[0])) if noise else contextlib.nullcontext():
            for (group, params), kernels in zip(work, calls, strict=True):
                if params:
                    self._update_watched(group, params, kernels)

    def _check_gradient(self, param: Tensor) -> None:
        if param.grad is not None and param.grad.layout != torch.strided:
            raise RuntimeError(
                f"{type(self).__name__} got a sparse gradient for a parameter of shape {(*param.shape,)}; build the "
                "embedding with sparse=False"
            )

    def _check_group(self, group: dict[str, Any]) -> None:
        if not self._needs_matrices:
            return
        for param in group["params"]:
            if getattr(param, "_is_flat_param", False) or is_flat_piece(group, param):
                raise RuntimeError(
                    f"{type(self).__name__} looks at whole matrices but was given a flat piece of one, of shape "
                    f"{(*param.shape,)}, as FSDP1 and DeepSpeed ZeRO do; use FSDP2 (fully_shard) or DDP"
                )

    def _init_state(self, param: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
            state.update(self._new_state(param, group))
        keeps_low_part = group["rounding"] in LOW_PARTS and param.dtype != compute_dtype(param)
        if keeps_low_part and "compensation" not in state:
            dtype = param.dtype if group["rounding"] == "kahan" else compute_dtype(param)
            state["compensation"] = torch.zeros_like(param, dtype=dtype)
        elif not keeps_low_part and "compensation" in state:
            # of a bf16 run that goes on in float32, or with another rounding
            param.copy_(read(param, state.pop("compensation")))

    def _update_watched(self, group: dict[str, Any], params: list[Tensor], calls: dict[Tensor, Call]) -> None:
        """Update, and at steps 1, 10, 100 and 1000 look whether a low-precision matrix moves at all."""
        watched = None
        if group["rounding"] == "nearest" and not self._warned_of_rounding and group["lr"] > 0:
            low = (p for p in params if p.dtype != compute_dtype(p) and p.dim() > 1 and local(p).numel())
            watched = next((p for p in low if self.state[p]["step"].item() in (1, 10, 100, 1000)), None)
        before = None if watched is None else local(watched).clone()
        if not group["compile"]:
            for param in params:
                self.state[param].pop("square_sum", None)  # nobody keeps it up to date
        self._update_params(group, params, calls)
        if watched is None or before is None:
            return
        # gradients that were folded into the state are gone: then every element should have moved
        asked = torch.ones_like(before, dtype=torch.bool) if watched.grad is None else local(gradient_of(watched)).ne(0)
        moved = (local(watched).ne(before) & asked).sum().item()
        if moved < 0.5 * asked.sum().item():
            self._warned_of_rounding = True
            warnings.warn(
                f"{type(self).__name__} with lr {group['lr']:g} left most elements of a {watched.dtype} parameter of "
                f"shape {(*watched.shape,)} unchanged: the updates are smaller than its precision. Use "
                "rounding='kahan', 'master' or 'stochastic', or float32 parameters with autocast",
                stacklevel=4,
            )

    def _compiled_calls(self, group: dict[str, Any], params: list[Tensor]) -> dict[Tensor, Call]:
        """The updates of those parameters that have kernels of their own."""
        calls = {}
        for param in params:
            if self._compiles(group, param):
                update, options = self._rule(group, param)
                calls[param] = self._compiled_update(update, group, param, options)
        return calls

    def _update_params(self, group: dict[str, Any], params: list[Tensor], calls: dict[Tensor, Call]) -> None:
        together: dict[tuple, list[Tensor]] = {}
        for param in params:
            if param in calls:
                continue
            update, options = self._rule(group, param)
            if self._foreach_can(group, param):
                together.setdefault((param.dtype, param.device, *options.values()), []).append(param)
            else:
                self._update_plain(update, group, param, options)
        for bucket in together.values():
            self._update_together(bucket, self._options(group, bucket[0]))
        self._run(calls)

    def _run(self, calls: dict[Tensor, Call]) -> None:
        """Make the calls of compiled updates."""
        # one after the other: each drives the interpreter's own data out of the cache, and what prepares a call would
        # take twice as long between them
        for call in calls.values():
            call()
        # kernels write behind autograd's back, which is to notice a graph that still needs the old weights
        torch.autograd.graph.increment_version([local(param) for param in calls])
        for param in calls:
            if "square_sum" in self.state[param]:
                self._versions[param] = param._version

    def _compiles(self, group: dict[str, Any], param: Tensor) -> bool:
        return group["compile"] and local(param).numel() >= COMPILE_FROM

    def _update_together(self, params: list[Tensor], options: dict[str, Any]) -> None:
        states = ([local(self.state[p][name]) for p in params] for name in self._state_names)
        values, grads = [local(p).detach() for p in params], [local(gradient_of(p)) for p in params]
        # a rule that needs whole matrices makes the pieces itself
        pieces = [(values, grads, *states)] if self._needs_matrices else cache_pieces(values, grads, *states)
        for piece in pieces:
            self._update_foreach(*piece, **options)

    def _foreach_can(self, group: dict[str, Any], param: Tensor) -> bool:
        """Multi-tensor kernels want one dtype throughout; a compiled optimizer uses them for its small tensors."""
        dtype, state = compute_dtype(param), self.state[param]
        return (
            group["foreach"] is not False
            and not group["lazy"]
            and param.dtype == gradient_of(param).dtype == dtype
            and all([state[name].dtype == dtype for name in self._state_names])
        )

    def _gradient_for_update(self, param: Tensor) -> Tensor | None:
        return local(gradient_of(param))

    def _tensors(self, param: Tensor) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...], Tensor | None]:
        state = self.state[param]
        compensation = state.get("compensation")
        return (
            local(param).detach(),
            self._gradient_for_update(param),
            tuple(local(state[name]) for name in self._state_names),
            None if compensation is None else local(compensation),
        )

    def _update_plain(self, update: Callable, group: dict[str, Any], param: Tensor, options: dict[str, Any]) -> None:
        value, grad, states, compensation = self._tensors(param)
        by_row = {name: v for name, v in options.items() if isinstance(v, Tensor) and v.dim()}
        tensors = [value, *states, *by_row.values(), *(t for t in (grad, compensation) if t is not None)]
        for piece in cache_pieces(*([t] for t in tensors)):
            taken = iter([part[0] for part in piece])
            apply_update(
                update,
                param=next(taken),
                states=tuple(next(taken) for _ in states),
                options=options | {name: next(taken) for name in by_row},
                grad=None if grad is None else next(taken),
                compensation=None if compensation is None else next(taken),
                rounding=group["rounding"],
                lazy=group["lazy"],
            )

    def _compiled_update(self, update: Callable, group: dict[str, Any], param: Tensor, options: dict[str, Any]) -> Call:
        """The call that will update the parameter."""
        self.state[param].pop("square_sum", None)  # of weights that are about to change, and this kernel does not sum
        value, grad, states, compensation = self._tensors(param)
        tensors = (value, grad, compensation, *states)
        dtype = compute_dtype(param)
        named = {
            name: option if isinstance(option, Tensor) else number(option, dtype, value.device)
            for name, option in options.items()
            if name in self._traced or isinstance(option, Tensor)
        }
        return compiled(
            update_kernel,
            (*tensors, *named.values()),
            flat=not self._by_rows(group, param) and all([t is None or t.is_contiguous() for t in tensors]),
            update=update,
            num_states=len(states),
            names=tuple(named),
            rounding=group["rounding"],
            lazy=group["lazy"],
            **{name: option for name, option in options.items() if name not in named},
        )

    def _by_rows(self, group: dict[str, Any], param: Tensor) -> bool:
        """True when the rule treats the last dimension as a unit, so that tensors must keep their shape."""
        return group["lazy"]

    # --- Σθ², for rules whose step follows the size of the weights: the kernel that moves them sums on its way

    def _square_sum(self, param: Tensor, by_rows: bool) -> Tensor:
        """Sum over the matrix, 0-d, or over every row (rows, 1); the kernel leaves there that of the new weights."""
        state = self.state[param]
        # new, or changed by somebody else; what changes weights behind the counter (`param.data`) is seen a step later
        if "square_sum" not in state or self._versions.get(param) != param._version:
            squares = read(param.detach(), state.get("compensation")).square()
            state["square_sum"] = squares.sum(-1, keepdim=True) if by_rows else squares.sum()
        return state["square_sum"]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # a copied sum belongs to the copied weights
        self._versions = {param: param._version for param, values in self.state.items() if "square_sum" in values}

    # --- checkpoints

    def state_dict(self) -> StateDict:
        """As torch's. The sums of squares that compiled kernels leave to the next step are computed anew after it, so
        that a resumed run gives the same bits whatever it is loaded with."""
        for state in self.state.values():
            state.pop("square_sum", None)
        return super().state_dict()

    def load_state_dict(self, state_dict: StateDict) -> None:
        """As torch's, but state keeps the dtype it was saved in (torch would cut the float32 state of a bf16 parameter
        down to bf16), and `foreach` and `compile` stay as they are here: they change the speed, not the result."""
        speeds = [{name: group[name] for name in ("foreach", "compile")} for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, speed in zip(self.param_groups, speeds, strict=True):
            group.update(speed)
        saved_ids = [index for group in state_dict["param_groups"] for index in group["params"]]
        params = [param for group in self.param_groups for param in group["params"]]
        for index, param in zip(saved_ids, params, strict=True):
            for name, value in state_dict["state"].get(index, {}).items():
                if isinstance(value, Tensor):
                    # a copy, so that two optimizers loaded from one dict do not share their state
                    device = torch.device("cpu") if name in self._cpu_states else param.device
                    self.state[param][name] = value.detach().to(device, copy=True)
