"""The one step of all optimizers here: check, gather, update, store, for any `Rule`.

Accumulation hidden in momentum is a mode of that step: gradients are folded into the states at once, and the states
move the parameters at the end of a window (see `_accumulation`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import ParamsT, StateDict

from suzoo.optimizers._accumulation import GradientHooks, only_makes_state
from suzoo.optimizers._compiled import compiled, run_eagerly, scalar
from suzoo.optimizers._options import check_options, plain_types
from suzoo.optimizers._rounding import low_precision_matrices, noise_of_step, warn_of_rounding
from suzoo.optimizers._rule import Job, Rule, SquareSums, Work, momentum_dtype
from suzoo.optimizers._stacks import can_stack, run_stacked, stacks
from suzoo.optimizers._tensors import LOW_PARTS, Rounding, cache_pieces, compute_dtype, gradient_of, local, read
from suzoo.optimizers.param_groups import is_flat_piece

NOTHING: dict[str, Any] = {}  # what a fold is given of arguments
COMPILE_FROM = 1 << 18  # elements; smaller tensors are not worth a compilation for their shape
Ready = list[tuple[dict[str, Any], list[Tensor]]]  # groups with those of their parameters that a step is about


class RuleOptimizer(torch.optim.Optimizer):
    """Base of the optimizers: state in float32 whatever the parameters are, exact resume, sharded parameters.

    What every subclass promises, and `tests/optimizers/test_conformance.py` checks:

    - state is created at a parameter's first gradient. A parameter without gradient is not touched and does not count
      the step. state_dict holds tensors and plain JSON types and resumes to the same bits, also for bf16 parameters;
    - `lr` of the group is read at every step, so any torch scheduler drives it;
    - FSDP2 (DTensor) parameters give what unsharded ones give;
    - rounding: how a bf16 or fp16 parameter takes a new value. "nearest" loses every update smaller than half a unit in
      the last place (bf16: 0.4 % of the weight) and says so once. "kahan" keeps the lost part in one more low-precision
      tensor, "master" in a float32 one: together with the parameter that is float32 training to the bit. "stochastic"
      (bf16) rounds up or down at random so that the mean is right, on all ranks alike;
    - foreach (in-place kernels on lists, and on accelerators stacks of tensors of one shape; off only with False) and
      compile (one pass over memory by inductor, for large tensors) change the speed, not the result but for last bits.
      `torch.compile` of `step` leaves it as it is.

    With `accumulation_steps` above 1 (where a class has it) gradients hide in the momentum: `step()` follows every
    micro-batch, and every `accumulation_steps`-th call moves the parameters. The training loop itself must not
    accumulate, and steps its schedule when `at_boundary` is True. It must not clip gradients: the mean of clipped
    gradients is not the clipped mean. It must not use GradScaler: a skipped step would leave half a window in the
    momentum. On several ranks it must not use `no_sync`: each gradient is folded in for good, so it must be the
    reduced one. GradScaler is refused; gradients changed between backward and `step` are refused in a single process.

    With `free_gradients=True` a hook folds each gradient into the state the moment backward has it, and frees it: a
    full set of gradients never exists. Nothing can be clipped or logged then. `close()` removes the hooks. Where
    `accelerator.prepare` puts sharded parameters into the place of those given (FSDP2), the hooks move to them at the
    first `step`, so that the gradients of that one micro-step are all there at once.
    """

    rule: ClassVar[Rule]
    # set around a step by GradScaler, or by a loop that knows the norm: 0 where all gradients are finite
    found_inf: Tensor | None = None
    _hooks: GradientHooks | None = None
    _warned_of_rounding = False

    def __init__(
        self,
        params: ParamsT,
        *,
        rounding: Rounding = "nearest",
        foreach: bool | None = None,
        compile: bool = False,
        free_gradients: bool = False,
        **options: Any,
    ):
        rule, name = self.rule, type(self).__name__
        known = {"lr", "weight_decay", *rule.options}
        if unknown := set(options) - known:
            raise TypeError(f"{name} got an unexpected keyword argument {sorted(unknown)[0]!r}")
        if missing := known - set(options):
            raise TypeError(f"{name} gives no {sorted(missing)[0]!r} to the driver")
        options |= {"rounding": rounding, "foreach": foreach, "compile": compile}
        if rule.fold is not None:
            options["micro_step"] = 0
        elif free_gradients:
            raise TypeError(f"{name} folds no gradients into its state, and so has no free_gradients")
        self._sums = SquareSums()
        self._free_gradients = free_gradients
        super().__init__(params, plain_types(options))
        if self.folds_gradients:
            self._set_hooks()

    # --- groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if isinstance(param_group, dict):  # of other types torch says what is wrong
            param_group.update(plain_types(param_group))
            self._check_options({**self.defaults, **param_group})
        super().add_param_group(param_group)
        try:
            for param in self.param_groups[-1]["params"]:
                self._check_param(param, self.param_groups[-1])
        except ValueError:
            del self.param_groups[-1]
            raise
        if self._hooks is not None:
            self._hooks.follow(self.param_groups)

    def _check_options(self, options: dict[str, Any]) -> None:
        name, rule = type(self).__name__, self.rule
        check_options(name, rule.options, rule.foreach is not None or rule.stack_up_to > 0, options)
        if rule.check is not None:
            rule.check(options)
        if rule.fold is None:
            return
        k = options["accumulation_steps"]
        window = (self.param_groups or [options])[0]["accumulation_steps"]
        if k != window:
            raise ValueError(
                f"{name}: all groups share a window, and their accumulation_steps must be equal, not {window} and {k}"
            )
        if options.get("momentum_dtype") == "bfloat16" and (k > 1 or self._free_gradients):
            raise ValueError("accumulation adds small parts to the momentum, which bfloat16 would lose: use float32")

    def _check_param(self, param: Tensor, group: dict[str, Any]) -> None:
        if not param.is_floating_point():
            raise ValueError(f"{type(self).__name__} trains real parameters, not one of {param.dtype}")
        if param.dtype == torch.float16 and group["rounding"] == "stochastic":
            raise ValueError("stochastic rounding is for bfloat16 parameters; use 'kahan' for float16")

    # --- the step

    @run_eagerly
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update. `closure`, if given, reevaluates the loss first; its value is returned.

        Raises:
            RuntimeError: a gradient that cannot be used. Nothing has changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        # check
        ready: Ready = [(group, [p for p in group["params"] if p.grad is not None]) for group in self.param_groups]
        folds = self.folds_gradients
        for group, params in ready:
            self._check_group(group, folds)
            self._check_gradients(params)
        if self._scaler_skips(ready):
            return loss

        # gather
        makes_state = folds and only_makes_state(self)
        for group, params in ready:
            self._make_states(group, params)
        if makes_state:
            return loss
        if folds:
            ready = self._fold(ready)
        jobs = self._jobs(ready, moves=folds)
        alone, stacked, together, kernels = self._sorted(jobs)  # compiles, the last that can fail

        # update and store
        if not jobs:
            return loss
        torch._foreach_add_([job.state["step"] for job in jobs], [torch.ones(())] * len(jobs))
        watched = [] if self._warned_of_rounding else low_precision_matrices(jobs)
        with noise_of_step(jobs):
            for job in alone:
                self.rule.apply(job)
            for alike in stacks(stacked):
                run_stacked(alike, self.rule.apply, moves=True)
            for bucket in together:
                self._update_together(bucket)
            self._run(kernels)
        self._warned_of_rounding |= warn_of_rounding(type(self).__name__, watched)
        if folds:
            for job in jobs:
                for name in ("folded", *self.rule.counters):
                    job.state[name].zero_()
        return loss

    def _check_group(self, group: dict[str, Any], folds: bool) -> None:
        name = type(self).__name__
        if folds and group.get("lazy"):
            raise ValueError(
                f"{name}: lazy=True needs the whole gradient of an update to see which rows to leave out, and "
                "accumulation folds its parts in before: use accumulation_steps=1, or Accumulated around it"
            )
        if not self.rule.needs_matrices:
            return
        for param in group["params"]:
            if getattr(param, "_is_flat_param", False) or is_flat_piece(group, param):
                raise RuntimeError(
                    f"{name} looks at whole matrices but was given a flat piece of one, of shape {(*param.shape,)}, as "
                    "FSDP1 and DeepSpeed ZeRO do; use FSDP2 (fully_shard) or DDP"
                )

    def _check_gradients(self, params: list[Tensor]) -> None:
        name = type(self).__name__
        for param in params:
            assert param.grad is not None
            if param.grad.layout != torch.strided:
                raise RuntimeError(
                    f"{name} got a sparse gradient for a parameter of shape {(*param.shape,)}; build the embedding "
                    "with sparse=False"
                )
        if self._hooks is not None and self._hooks.seen.any_changed(params):
            raise RuntimeError(
                f"{name} accumulates in its momentum, and a gradient was changed between backward and step: "
                "gradient clipping is not possible here (the mean of clipped gradients is not the clipped mean). "
                "Turn it off (in transformers' Trainer: max_grad_norm=0)"
            )

    def _make_states(self, group: dict[str, Any], params: list[Tensor]) -> None:
        rule = self.rule
        for param in params:
            state, dtype = self.state[param], compute_dtype(param)
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
                if rule.new_state is None:
                    dtypes = {"momentum": momentum_dtype(group, param)}
                    state |= {name: torch.zeros_like(param, dtype=dtypes.get(name, dtype)) for name in rule.states}
                else:
                    state |= rule.new_state(param, group, rule.kind(group, param))
            if rule.fold is not None and "folded" not in state and self.folds_gradients:
                # gradients folded in since the window began; only then does the parameter move at its end
                state["folded"] = torch.zeros((), dtype=torch.float32, device="cpu")
                state |= {name: torch.zeros((), device=param.device) for name in rule.counters}
            keeps_low_part = group["rounding"] in LOW_PARTS and param.dtype != dtype
            if keeps_low_part and "compensation" not in state:
                low = param.dtype if group["rounding"] == "kahan" else dtype
                state["compensation"] = torch.zeros_like(param, dtype=low)
            elif not keeps_low_part and "compensation" in state:
                # of a bf16 run that goes on in float32, or with another rounding
                param.copy_(read(param, state.pop("compensation")))

    def _jobs(self, ready: Ready, moves: bool) -> list[Job]:
        """What to do with each parameter; `moves`: by the states, at the end of a window."""
        rule = self.rule
        update = rule.move if moves else rule.update
        assert update is not None
        known_finite = rule.knows_finite and self.found_inf is not None and not bool(self.found_inf)
        jobs = []
        for group, params in ready:
            arguments: dict[tuple, dict[str, Any]] = {}  # by all that they depend on: many parameters share them
            for param in params:
                state, kind = self.state[param], rule.kind(group, param)
                key = kind, param.device, 0.0 if rule.derived is None else float(state["step"]) + 1
                if key not in arguments:
                    finite = scalar(True, torch.bool, param.device) if known_finite else None
                    arguments[key] = rule.arguments(update, group, kind, key[-1], finite=finite)
                states = {name: state[name] for name in rule.states if name in state}
                grad = None if moves else gradient_of(param)
                jobs.append(Job(rule, param, grad, states, state, group, kind, arguments[key], self._sums))
        return jobs

    def _sorted(
        self, jobs: list[Job]
    ) -> tuple[list[Job], list[Job], list[list[Job]], list[tuple[Job, Work, Callable]]]:
        """Jobs for the plain form alone and in stacks, for multi-tensor kernels in buckets, and with compiled kernels
        of their own."""
        alone, stacked, kernels = [], [], []
        together: dict[tuple, list[Job]] = {}
        for job in jobs:
            compiles = job.group["compile"] and local(job.param).numel() >= COMPILE_FROM
            work = self.rule.kernel(job) if compiles else None
            call = work and compiled(work.function, work.tensors, work.options, flat=work.flat)
            if work is not None and call is not None:
                kernels.append((job, work, call))
            elif self._can_foreach(job):
                # arguments are those of one group and device
                together.setdefault((id(job.arguments), job.param.dtype), []).append(job)
            else:
                (stacked if can_stack(job) else alone).append(job)
        return alone, stacked, list(together.values()), kernels

    def _can_foreach(self, job: Job) -> bool:
        """Multi-tensor kernels want one dtype throughout; a compiled optimizer uses them for its small tensors."""
        rule, param, grad, group, dtype = self.rule, job.param, job.grad, job.group, job.param.dtype
        return (
            rule.foreach is not None
            and grad is not None
            and group["foreach"] is not False
            and not group.get("lazy")
            and grad.dtype == dtype == compute_dtype(param)
            and all([state.dtype == dtype for state in job.states.values()])
            # on an accelerator numbers of whole matrices take many launches each: stacks have them for all at once
            and not (rule.needs_matrices and (isinstance(param, DTensor) or param.device.type != "cpu"))
        )

    def _update_together(self, jobs: list[Job]) -> None:
        foreach, arguments = self.rule.foreach, jobs[0].arguments
        assert foreach is not None
        params, grads = [local(job.param) for job in jobs], [local(job.grad) for job in jobs]
        states = [[local(job.states[name]) for job in jobs] for name in jobs[0].states]
        # a rule that needs whole matrices makes the pieces itself
        whole = self.rule.needs_matrices
        for piece in [(params, grads, *states)] if whole else cache_pieces(params, grads, *states):
            foreach(*piece, **arguments)

    def _run(self, kernels: list[tuple[Job, Work, Callable]]) -> None:
        # one after the other: each drives the interpreter's own data out of the cache, and what prepares a call would
        # take twice as long between them
        for _, _, call in kernels:
            call()
        # kernels write behind autograd's back, which is to notice a graph that still needs the old weights
        torch.autograd.graph.increment_version([local(job.param) for job, _, _ in kernels])
        for job, work, _ in kernels:
            if "square_sum" in work.tensors:
                self._sums.keep(job.param)

    # --- gradient scalers

    @property
    def _step_supports_amp_scaling(self) -> bool:  # the question GradScaler.step asks first
        if self.folds_gradients:
            raise RuntimeError(
                f"{type(self).__name__} accumulates in its momentum and cannot be stepped by GradScaler: a skipped "
                "step would leave half a window in the momentum. Use bf16 autocast, which needs no scaler"
            )
        return self.rule.knows_finite

    def _scaler_skips(self, ready: Ready) -> bool:
        """Do what GradScaler leaves to an optimizer that supports it, by setting `found_inf` and `grad_scale` around a
        step: skip it if gradients overflowed, or divide them by the scale. `found_inf` alone comes from a training loop
        that knows the norm, and skips nothing."""
        if "grad_scale" not in self.__dict__:
            return False
        if bool(self.found_inf):
            return True
        if (scale := self.__dict__["grad_scale"]) is not None:
            inverse = scale.double().reciprocal().float()
            for _, params in ready:
                for param in params:
                    assert param.grad is not None
                    param.grad.mul_(inverse.to(param.device))
        return False

    # --- accumulation in the states

    @property
    def accumulation_steps(self) -> int:
        return self.param_groups[0].get("accumulation_steps", 1)

    @property
    def folds_gradients(self) -> bool:
        """True when a training loop must not clip, scale or leave unsynchronized the gradients of this optimizer."""
        return self.accumulation_steps > 1 or self._free_gradients

    @property
    def at_boundary(self) -> bool:
        """True when the last `step()` closed a window, so that the schedule should step too."""
        return self.param_groups[0].get("micro_step", 0) % self.accumulation_steps == 0

    def _set_hooks(self) -> None:
        self._hooks = GradientHooks(self._take if self._free_gradients else None)
        self._hooks.follow(self.param_groups)

    def close(self) -> None:
        """Remove the hooks; gradients are then folded in `step`."""
        if self._hooks is not None:
            self._hooks.remove()
        self._hooks, self._free_gradients = None, False

    @torch.no_grad()
    def _take(self, index: int, param: Tensor) -> None:
        """A gradient out of backward."""
        self._check_gradients([param])
        self._make_states(self.param_groups[index], [param])
        self._fold_gradients(self.param_groups[index], [param])

    def _fold_gradients(self, group: dict[str, Any], params: list[Tensor]) -> None:
        rule, jobs = self.rule, []
        for param in params:
            state, kind = self.state[param], rule.kind(group, param)
            states = {name: state[name] for name in rule.states}
            jobs.append(Job(rule, param, gradient_of(param), states, state, group, kind, NOTHING, self._sums))

        def fold(job: Job) -> None:
            assert rule.fold is not None
            rule.fold(job, int(job.state["folded"]) == 0)

        for job in jobs:
            if not can_stack(job):
                fold(job)
        for alike in stacks(job for job in jobs if can_stack(job)):
            run_stacked(alike, fold, moves=False)
        for job in jobs:
            job.state["folded"] += 1

    def _fold(self, ready: Ready) -> Ready:
        """Count a micro-step and fold its gradients in; the parameters to move, none inside a window."""
        for group, params in ready:
            self._fold_gradients(group, params)
        if self._hooks is not None:
            self._hooks.seen.clear()
            self._hooks.follow(self.param_groups)
        for group in self.param_groups:
            group["micro_step"] += 1
        if not self.at_boundary:
            return []
        folded = lambda p: self.state.get(p) and int(self.state[p]["folded"])  # noqa: E731
        return [(group, [p for p in group["params"] if folded(p)]) for group in self.param_groups]

    # --- checkpoints and copies

    def __getstate__(self) -> dict[str, Any]:
        self._sums.clear()  # a copy computes them anew, and both are to give the same bits
        return super().__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._sums = SquareSums()
        self.__dict__.setdefault("_free_gradients", False)
        if self.folds_gradients and self._hooks is None:
            self._set_hooks()

    def state_dict(self) -> StateDict:
        """As torch's. The sums of squares that compiled kernels leave to the next step are computed anew after it, so
        that a resumed run gives the same bits whatever it is loaded with."""
        self._sums.clear()
        return super().state_dict()

    def load_state_dict(self, state_dict: StateDict) -> None:
        """As torch's, hooks included, but state keeps the dtype it was saved in: torch would cut the float32 state of
        a bf16 parameter down to bf16. `foreach` and `compile` stay as they are here: they change the speed, not the
        result.

        Raises:
            ValueError: a state of another optimizer. Nothing is changed then.
        """
        speeds = [{name: group[name] for name in ("foreach", "compile")} for group in self.param_groups]
        loaded: list[StateDict] = []

        def note(_, state_dict: StateDict) -> None:
            for state in state_dict["state"].values():
                self._check_state(state)
            loaded.append(state_dict)

        def restore(_) -> None:
            for group, speed in zip(self.param_groups, speeds, strict=True):
                group.update({**self.defaults, **group, **speed})  # options that are newer than the checkpoint
            saved_ids = [index for group in loaded[-1]["param_groups"] for index in group["params"]]
            params = [param for group in self.param_groups for param in group["params"]]
            for index, param in zip(saved_ids, params, strict=True):
                for name, value in loaded[-1]["state"].get(index, {}).items():
                    # a copy, so that two optimizers loaded from one dict do not share their state
                    if name in ("step", "folded"):
                        self.state[param][name] = torch.tensor(float(value))
                    elif isinstance(value, Tensor):
                        self.state[param][name] = value.detach().to(param.device, copy=True)

        # after the hooks of others that change what is loaded, before those that look at the result
        after_theirs = self.register_load_state_dict_pre_hook(note)
        before_theirs = self.register_load_state_dict_post_hook(restore, prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            after_theirs.remove()
            before_theirs.remove()

    def _check_state(self, state: dict[str, Any]) -> None:
        expected, found = set(self.rule.states), set(state)
        some = self.rule.new_state is not None  # a choice of them, by the kind of parameter
        if found and not (expected & found if some else expected <= found):
            name, wanted = type(self).__name__, ", ".join(self.rule.states)
            raise ValueError(
                f"{name}.load_state_dict: a parameter's state has {', '.join(sorted(found))}, and {name} needs "
                f"{wanted}: this is the checkpoint of another optimizer"
            )
