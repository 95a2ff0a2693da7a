"""LoRA as an optimizer: low-rank steps for the matrices of any model, which itself is not changed.

Source: Su, kexue.fm/archives/9590. A weight W of shape (m, n) with W = W_base + s B A, B (m, r), A (r, n), has

    ∂L/∂A = s Bᵀ G,    ∂L/∂B = s G Aᵀ,    G = ∂L/∂W,

so LoRA needs only G: an inner optimizer moves A and B by these gradients, and W follows by s (B'A' - B A). Its moments
belong to A and B, (m + n) r numbers instead of m n. Unlike LoRA by modules, G of a matrix exists for a moment, and the
weights are merged at all times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Placement, Replicate, distribute_tensor
from torch.optim import Optimizer
from torch.optim.optimizer import StateDict

from suzoo.optimizers._accumulation import only_makes_state, refuse_under_ddp
from suzoo.optimizers._compiled import run_eagerly
from suzoo.optimizers._lora_adapter import (
    Adapter,
    ShownGroup,
    additive_delta,
    additive_gradients,
    as_groups,
    lora_gradients,
)
from suzoo.optimizers._lora_export import layers_of, write_adapter
from suzoo.optimizers._lora_state import state_of_inner, state_of_model
from suzoo.optimizers._options import COUNT, POSITIVE, one_of, optional
from suzoo.optimizers._tensors import compute_dtype, gradient_of
from suzoo.optimizers._wrapper import OptimizerWrapper

Variant = Literal["lora", "projection", "additive"]
Init = Literal["symmetric", "peft"]


class LoRAOptimizer(OptimizerWrapper):
    """Train the matrices among `params` by low-rank steps, and everything else by the inner optimizer as it is.

    Args:
        params: parameters, named or not, or groups of them, for instance `param_groups(model, ...)`. Adapted are
            two-dimensional parameters larger than r on both sides, unless their group has `"lora": False` or a `kind`
            other than "matrix".
        inner: makes the optimizer of A, B and the rest from groups: `lambda groups: AdamW(groups, lr=1e-4)`. Options of
            a group are kept, so weight decay acts on A and B, as with peft. Accumulated and ParameterSearch belong
            around LoRAOptimizer, not inside.
        r: rank.
        alpha: s = alpha / r, as in peft; None is s = 1.
        variant: "lora". "projection": A and B are random and stand still for `refresh` updates, and W moves by half of
            B · step(BᵀG) + step(G Aᵀ) · A, which is -lr G in expectation under SGD (each of the two terms is).
            "additive": W + a row for all rows and a column for all columns (r interleaved ones; r must divide both
            sides), of rank 2 r and without any random number.
        init: "symmetric": A and B Gaussian of variance 1/r, so that E AᵀA = E B Bᵀ = 1; W starts unchanged all the
            same. "peft": A as in peft, B zero. Only for "lora".
        refresh: "projection" only: draw new A and B every `refresh` updates and drop the inner state of the old ones.
        seed: of the random numbers, equal on all ranks.
        free_gradients: a hook turns each matrix's gradient into those of A and B the moment backward has it, and frees
            it: a full set of gradients never exists. Nothing can be clipped or scaled then; refused under DDP, which
            averages later. `close()` removes the hooks.

    `param_groups` shows the parameters of the model; A and B are the inner optimizer's. Matrices in bf16 and fp16 are
    recomputed from a copy of their first value, so that no small step is lost. Weights that somebody else sets in
    place (`load_state_dict`) are taken over at the next step. "projection" refuses low precision. Flat parameters
    (FSDP1, ZeRO) are not adapted, since they are vectors. FSDP2 works, also where `accelerator.prepare` shards the
    model after this optimizer was made.

    Raises:
        ValueError: an option out of range, no parameter to adapt, or an inner optimizer that wraps another one.
    """

    def __init__(
        self,
        params: Iterable[Any],
        inner: Callable[[list[dict[str, Any]]], Optimizer],
        *,
        r: int = 8,
        alpha: float | None = None,
        variant: Variant = "lora",
        init: Init = "symmetric",
        refresh: int = 1,
        seed: int = 0,
        free_gradients: bool = False,
    ):
        name = type(self).__name__
        COUNT.check(name, "r", r)
        COUNT.check(name, "refresh", refresh)
        one_of("lora", "projection", "additive").check(name, "variant", variant)
        one_of("symmetric", "peft").check(name, "init", init)
        optional(POSITIVE).check(name, "alpha", alpha)
        if alpha is not None and variant == "additive":
            raise ValueError("the additive variant has no alpha: leave it out, and change lr")
        if init == "peft" and variant != "lora":
            raise ValueError("init='peft' is for variant='lora'; the others have no B that starts at zero")
        self.r, self.variant, self.init, self.refresh, self.seed = r, variant, init, refresh, seed
        self.scale = 1.0 if alpha is None else alpha / r
        self.num_steps = 0
        self._adapters: list[Adapter] = []
        groups = as_groups(params)
        if not groups:
            raise ValueError("LoRAOptimizer got no parameters: pass model.parameters(), or groups of them")
        self.optimizer = inner([self._adapted_group(index, group) for index, group in enumerate(groups)])
        if isinstance(self.optimizer, OptimizerWrapper):
            wrapper = type(self.optimizer).__name__
            raise ValueError(
                f"{wrapper} inside LoRAOptimizer would see A and B in place of the model's parameters and their "
                f"gradients: give LoRAOptimizer the plain optimizer, and put {wrapper} around it"
            )
        if not self._adapters:
            raise ValueError(f"LoRAOptimizer found no matrix larger than r={r} on both sides: choose a smaller r")
        self._groups = [ShownGroup(self, index, group["params"]) for index, group in enumerate(groups)]
        if free_gradients:
            for adapter in self._adapters:
                if adapter.param.requires_grad:  # a frozen one that is thawed later has its gradient taken in `step`
                    adapter.hook = adapter.param.register_post_accumulate_grad_hook(self._hook_of(adapter))

    # --- adapters

    def _adapted_group(self, index: int, group: dict[str, Any]) -> dict[str, Any]:
        """The group as the inner optimizer gets it, with A and B in place of the matrices to adapt."""
        new = []
        for place, param in enumerate(group["params"]):
            matrix = group.get("lora", True) and group.get("kind", "matrix") == "matrix" and param.dim() == 2
            if matrix and min(param.shape) > self.r:
                adapter = self._adapter(param, index, place)
                self._adapters.append(adapter)
                new += [adapter.a, adapter.b]
            else:
                new.append(param)
        return {**group, "params": new}

    @property
    def param_groups(self):
        return self._groups

    def _replace(self, index: int, params: list[Tensor]) -> None:
        """Sharded parameters in place of a group's whole ones: Accelerate makes them after the optimizer."""
        adapters = {adapter.place: adapter for adapter in self._adapters if adapter.group == index}
        if len(params) != len(self._groups[index].params) or any(
            params[place].dim() != 2 or len(params[place]) != len(adapter.b) for place, adapter in adapters.items()
        ):
            raise ValueError(
                "LoRAOptimizer works on whole matrices but was given flat pieces of them, as FSDP1 and DeepSpeed ZeRO "
                "make them: use FSDP2 (fully_shard) or DDP"
            )
        new: list[Tensor] = []
        for place, param in enumerate(params):
            adapter = adapters.get(place)
            if adapter is None:
                new.append(param)
                continue
            new += [adapter.a, adapter.b]
            adapter.param, adapter.version = param, -1
            adapter.follow()
            if isinstance(param, DTensor) and adapter.first is not None and not isinstance(adapter.first, DTensor):
                adapter.first = distribute_tensor(adapter.first, param.device_mesh, param.placements)
            if adapter.hook is not None:
                adapter.hook.remove()
                adapter.hook = param.register_post_accumulate_grad_hook(self._hook_of(adapter))
        self._groups[index].params = params
        self.optimizer.param_groups[index]["params"] = new

    def _adapter(self, param: Tensor, group: int, place: int) -> Adapter:
        m, n = param.shape
        low_precision = param.dtype != compute_dtype(param)
        if self.variant == "additive" and (m % self.r or n % self.r):
            raise ValueError(f"the additive variant needs r={self.r} to divide both sides of a matrix {(m, n)}")
        if self.variant == "projection" and low_precision:
            raise ValueError("the projection variant changes W by full-rank sums: use float32 parameters")
        number = len(self._adapters)
        a, b = self._draw(param, number)
        start = (a, b) if self.variant == "lora" else (torch.zeros_like(a), torch.zeros_like(b))
        return Adapter(
            number,
            group,
            place,
            param,
            a=nn.Parameter(start[0].clone()),
            b=nn.Parameter(start[1].clone()),
            anchors=(a, b),
            first=param.detach().clone() if low_precision else None,
            version=param._version,
        )

    def _draw(self, param: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """A (r, n) and B (m, r) from the seed, the matrix's number and the period: the same on every rank."""
        m, n = param.shape
        period = self.num_steps // self.refresh
        generator = torch.Generator().manual_seed(hash((self.seed, number, period)) % 2**63)
        a, b = torch.empty(self.r, n, dtype=torch.float64), torch.zeros(m, self.r, dtype=torch.float64)
        if self.init == "peft":
            bound = n**-0.5  # kaiming_uniform_ with a = √5, as nn.Linear and peft
            a.uniform_(-bound, bound, generator=generator)
        else:
            a.normal_(std=self.r**-0.5, generator=generator)
            b.normal_(std=self.r**-0.5, generator=generator)
        dtype = compute_dtype(param)
        return a.to(param.device, dtype), b.to(param.device, dtype)

    @staticmethod
    def _like(value: Tensor, other: Tensor, placements: Sequence[Placement] | None = None) -> Tensor:
        """value on the mesh of `other`, if that is sharded: replicated, or with the placements given."""
        if not isinstance(other, DTensor):
            return value
        mesh = other.device_mesh
        replicated = DTensor.from_local(value, mesh, [Replicate()] * mesh.ndim, run_check=False)
        return replicated if placements is None else replicated.redistribute(placements=placements)

    def _gradients(self, grad: Tensor, adapter: Adapter) -> tuple[Tensor, Tensor]:
        if self.variant == "additive":
            return additive_gradients(self._gathered(grad), self.r)
        a, b = (adapter.a, adapter.b) if self.variant == "lora" else adapter.anchors
        with torch.autocast(grad.device.type, enabled=False):  # it would multiply in bf16
            of_a, of_b = lora_gradients(grad, self._like(a.detach(), grad), self._like(b.detach(), grad), self.scale)
        return self._gathered(of_a), self._gathered(of_b)

    @staticmethod
    def _gathered(value: Tensor) -> Tensor:
        return value.full_tensor() if isinstance(value, DTensor) else value

    def _product(self, b: Tensor, a: Tensor, param: Tensor) -> Tensor:
        """s B A, each rank computing the part that it has of W."""
        if isinstance(param, DTensor):
            # B takes W's sharding of rows, A that of columns: then no rank multiplies more than its part
            rows = [p if p.is_shard(0) else Replicate() for p in param.placements]
            columns = [p if p.is_shard(1) else Replicate() for p in param.placements]
            b, a = self._like(b, param, rows), self._like(a, param, columns)
        with torch.autocast(param.device.type, enabled=False):
            return self.scale * (b @ a)

    def _delta(self, adapter: Adapter, old: tuple[Tensor, Tensor]) -> Tensor:
        """Change of W when A and B went from `old` to what they are."""
        a, b, param = adapter.a.detach(), adapter.b.detach(), adapter.param
        if self.variant == "lora":
            return self._product(b, a, param) - self._product(old[1], old[0], param)
        if self.variant == "additive":
            placements = param.placements if isinstance(param, DTensor) else None
            return self._like(additive_delta(a - old[0], b - old[1]), param, placements)
        fixed_a, fixed_b = adapter.anchors
        return (self._product(fixed_b, a - old[0], param) + self._product(b - old[1], fixed_a, param)) / 2

    def _since_first(self, adapter: Adapter) -> Tensor:
        """Change of a low-precision W since its first value."""
        zeros = torch.zeros_like(adapter.a), torch.zeros_like(adapter.b)
        return self._delta(adapter, adapter.anchors if self.variant == "lora" else zeros)

    def _take_over(self, adapter: Adapter) -> None:
        """Choose the first value anew where somebody else has set a low-precision W."""
        param, first = adapter.param, adapter.first
        if first is None or param._version == adapter.version:
            return
        change = self._since_first(adapter)
        # a write may have changed nothing: a checkpoint loaded beside this one, ParameterSearch. Else the new weights
        # come back but for the rounding of their distance, which is 0 as long as A and B have not moved
        kept = (first + change).to(param.dtype) == param
        first.copy_(torch.where(kept, first, param - change))

    # --- the step

    @property
    def accumulation_steps(self) -> int:
        """Of the inner optimizer: A and B stand still inside its window, hence W too, so it may hide accumulation."""
        return getattr(self.optimizer, "accumulation_steps", 1)

    @property
    def folds_gradients(self) -> bool:
        """True when a training loop must not clip, scale or leave unsynchronized the gradients of this optimizer."""
        hooked = any(adapter.hook is not None for adapter in self._adapters)
        return hooked or getattr(self.optimizer, "folds_gradients", False)

    @property
    def at_boundary(self) -> bool:
        return getattr(self.optimizer, "at_boundary", True)

    @property
    def _step_supports_amp_scaling(self) -> bool:  # the question GradScaler.step asks first
        if self.folds_gradients:
            raise RuntimeError(
                "LoRAOptimizer takes gradients in during backward and cannot be stepped by GradScaler, which would "
                "unscale them later. Use bf16 autocast, which needs no scaler"
            )
        return False

    def _hook_of(self, adapter: Adapter) -> Callable[[Tensor], None]:
        def hook(param: Tensor) -> None:
            refuse_under_ddp(param)
            self._project(adapter)
            param.grad = None

        return hook

    def close(self) -> None:
        """Remove the hooks; gradients are then taken in `step`."""
        for adapter in self._adapters:
            if adapter.hook is not None:
                adapter.hook.remove()
            adapter.hook = None

    def __getstate__(self) -> dict[str, Any]:
        # a copy has no hooks, and takes its gradients in `step`; versions are those of these tensors
        copies = [replace(adapter, hook=None, version=-1) for adapter in self._adapters]
        return {**self.__dict__, "_adapters": copies}

    @torch.no_grad()
    def _project(self, adapter: Adapter) -> None:
        """Add a gradient of W to those of A and B."""
        adapter.follow()
        grad = gradient_of(adapter.param).to(compute_dtype(adapter.param))
        for part, new in zip((adapter.a, adapter.b), self._gradients(grad, adapter), strict=True):
            part.grad = new if part.grad is None else part.grad + new

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        raise RuntimeError("LoRAOptimizer takes all its parameters at construction")

    def zero_grad(self, set_to_none: bool = True) -> None:
        for adapter in self._adapters:
            if set_to_none:
                adapter.param.grad = None
            elif adapter.param.grad is not None:
                adapter.param.grad.zero_()
        self.optimizer.zero_grad(set_to_none)

    @run_eagerly
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move A and B by the inner optimizer, and W with them."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        counts = not only_makes_state(self)
        moving: list[tuple[Adapter, tuple[Tensor, Tensor]]] = []
        try:
            for adapter in self._adapters:
                if adapter.param.grad is not None:
                    self._project(adapter)
                # inside an accumulation window there may be gradients of earlier micro-steps
                if adapter.a.grad is not None or self.accumulation_steps > 1:
                    self._take_over(adapter)
                    moving.append((adapter, (adapter.a.detach().clone(), adapter.b.detach().clone())))
            self.optimizer.step()
        finally:  # after an error too, or the next step would add the same gradients again
            for adapter in self._adapters:
                adapter.a.grad = adapter.b.grad = None
        for adapter, before in moving:
            param = adapter.param
            if adapter.first is None:
                param.add_(self._delta(adapter, before))
            else:
                param.copy_(adapter.first.to(compute_dtype(param)) + self._since_first(adapter))
                adapter.version = param._version
            if self.variant == "projection":
                adapter.a.zero_()
                adapter.b.zero_()
        # inside a window the inner state belongs to the A and B that the window began with
        if counts and self.at_boundary:
            self.num_steps += 1
            if self._starts_period():
                self._drop_inner_state()
                for adapter in self._adapters:
                    adapter.anchors = self._draw(adapter.param, adapter.number)
        return loss

    def _starts_period(self) -> bool:
        return self.variant == "projection" and self.at_boundary and self.num_steps % self.refresh == 0

    def _drop_inner_state(self) -> None:
        """It belongs to the A and B of the period before."""
        for adapter in self._adapters:
            for virtual in (adapter.a, adapter.b):
                self.optimizer.state.pop(virtual, None)

    # --- checkpoints and export

    def _places(self) -> list[Adapter | None]:
        """For every parameter of the model, in the order of the groups, its adapter."""
        adapters = {(adapter.group, adapter.place): adapter for adapter in self._adapters}
        return [adapters.get((g, place)) for g, size in enumerate(self._sizes()) for place in range(size)]

    def _sizes(self) -> list[int]:
        return [len(group.params) for group in self._groups]

    def state_dict(self) -> StateDict:
        """As torch's, by the parameters of the model, see `_lora_state`."""
        return state_of_model(self.optimizer.state_dict(), self._places(), self._sizes(), self.num_steps)

    @torch.no_grad()
    def load_state_dict(self, state_dict: StateDict) -> None:
        """Resumes exactly; load the model's weights too, before or after.

        Raises:
            ValueError: the checkpoint is not that of a LoRAOptimizer with the same matrices and the same r. Nothing is
                changed then.
        """
        for adapter in self._adapters:
            adapter.follow()
        inner, saved, num_steps = state_of_inner(state_dict, self._places())
        self.optimizer.load_state_dict(inner)
        self.num_steps = num_steps
        for adapter, theirs in saved:
            for name, mine in adapter.tensors().items():
                if name in theirs:
                    mine.copy_(theirs[name])
            adapter.version = -1  # the weights may come from elsewhere
        if self._starts_period():
            self._drop_inner_state()  # torch.distributed.checkpoint mixes in that of the step that made it

    def save_peft(self, model: nn.Module, folder: str | Path, *, base: str = "") -> None:
        """Write a peft LoRA adapter that turns the model as it was at the start into what it is now.

        With the symmetric init the change s (B A - B0 A0) has rank 2 r, and so has the adapter. Tied nn.Linear get it
        one by one: use the adapter as it is, because merging it would add it to their common weight once for each.

        Args:
            model: the trained model, for the names of its modules.
            folder: gets adapter_config.json and adapter_model.safetensors; `PeftModel.from_pretrained` reads it.
            base: name or path of the base model for the config.

        Raises:
            ValueError: the variant is not "lora"; an adapted matrix is not the weight of an nn.Linear of `model`, or
                is tied to something else (an embedding); other parameters were trained too. An adapter cannot hold
                them.
        """
        if self.variant != "lora":
            raise ValueError(f"peft has no adapter for variant={self.variant!r}: save the whole model")
        num_others = sum(len(group.params) for group in self._groups) - len(self._adapters)
        if num_others:
            raise ValueError(
                f"{num_others} parameters were trained without low rank and would be missing in the adapter: "
                "give LoRAOptimizer only matrices, or save the whole model"
            )
        pairs: list[tuple[Tensor, Tensor]] = [(adapter.a, adapter.b) for adapter in self._adapters]
        if self.init == "symmetric":
            starts = [adapter.anchors for adapter in self._adapters]
            pairs = [
                (torch.cat([a, a0]), torch.cat([b, -b0], 1)) for (a, b), (a0, b0) in zip(pairs, starts, strict=True)
            ]
        layers = layers_of(model, [adapter.param for adapter in self._adapters])
        write_adapter(Path(folder), layers, pairs, alpha=self.scale * len(pairs[0][0]), base=base)
