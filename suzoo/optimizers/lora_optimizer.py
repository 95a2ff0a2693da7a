"""LoRA as an optimizer: low-rank steps for the matrices of any model, which itself is not changed.

Source: Su, kexue.fm/archives/9590. A weight W of shape (m, n) with W = W_base + s B A, B (m, r), A (r, n), has

    ∂L/∂A = s Bᵀ G,    ∂L/∂B = s G Aᵀ,    G = ∂L/∂W,

so LoRA needs only G: an inner optimizer moves A and B by these gradients, and W follows by s (B'A' - B A). Its moments
belong to A and B, (m + n) r numbers instead of m n. Unlike LoRA by modules, G of a matrix exists for a moment, and the
weights are merged at all times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Placement, Replicate, distribute_tensor
from torch.optim import Optimizer
from torch.optim.optimizer import StateDict

from suzoo.distributed import is_distributed
from suzoo.optimizers._lora_export import layers_of, write_adapter
from suzoo.optimizers._tensors import compute_dtype, gradient_of
from suzoo.optimizers._wrapper import OptimizerWrapper

Variant = Literal["lora", "projection", "additive"]
Init = Literal["symmetric", "peft"]


def lora_gradients(grad: Tensor, a: Tensor, b: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Gradients of A (r, n) and B (m, r) from that of W (m, n)."""
    return scale * (b.T @ grad), scale * (grad @ a.T)


def additive_gradients(grad: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """Of W_ij = W0_ij + A[i mod r, j] + B[i, j mod r]: sums over blocks of rows (r, n) and of columns (m, r)."""
    m, n = grad.shape
    return grad.view(m // r, r, n).sum(0), grad.view(m, n // r, r).sum(1)


def additive_delta(a: Tensor, b: Tensor) -> Tensor:
    """A and B repeated to the size of W."""
    (r, n), m = a.shape, b.shape[0]
    return a.repeat(m // r, 1) + b.repeat(1, n // r)


class _Group(MutableMapping[str, Any]):
    """A group of the inner optimizer that shows the parameters of the model in place of A and B, so that clipping,
    GradScaler, schedules and Accelerate find what they look for; all else is the inner group's."""

    def __init__(self, owner: LoRAOptimizer, index: int, params: list[Tensor]):
        self.owner, self.index, self.params = owner, index, params

    @property
    def inner(self) -> dict[str, Any]:
        return self.owner.optimizer.param_groups[self.index]

    def __getitem__(self, key: str) -> Any:
        return self.params if key == "params" else self.inner[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "params":
            self.owner._replace(self.index, list(value))
        else:
            self.inner[key] = value

    def __delitem__(self, key: str) -> None:
        del self.inner[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.inner)

    def __len__(self) -> int:
        return len(self.inner)


class LoRAOptimizer(OptimizerWrapper):
    """Train the matrices among `params` by low-rank steps, and everything else by the inner optimizer as it is.

    Args:
        params: parameters or groups, for instance `param_groups(model, ...)`. Adapted are two-dimensional parameters
            larger than r on both sides, unless their group has `"lora": False` or a `kind` other than "matrix".
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

    `param_groups` shows the parameters of the model; A and B are the inner optimizer's. bf16 and fp16 matrices are
    recomputed from a copy of their first value, so that no small step is lost; weights that somebody else sets in place
    (`load_state_dict`) are taken over at the next step. "projection" refuses low precision. Flat parameters (FSDP1,
    ZeRO) are not adapted, since they are vectors. FSDP2 works, also where `accelerator.prepare` shards the model after
    this optimizer was made.

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
        if r < 1 or refresh < 1:
            raise ValueError(f"r and refresh must be at least 1, not {r} and {refresh}")
        if variant not in ("lora", "projection", "additive") or init not in ("symmetric", "peft"):
            raise ValueError(f"unknown variant {variant!r} or init {init!r}")
        if alpha is not None and (not alpha > 0 or variant == "additive"):
            raise ValueError("alpha must be positive, and the additive variant has none")
        if init == "peft" and variant != "lora":
            raise ValueError("init='peft' is for variant='lora'; the others have no B that starts at zero")
        self.r, self.variant, self.init, self.refresh, self.seed = r, variant, init, refresh, seed
        self.scale = 1.0 if alpha is None else alpha / r
        self.num_steps = 0
        self._adapted: list[Tensor] = []
        self._numbers: dict[tuple[int, int], int] = {}  # group and place in it -> number of the adapted matrix
        self._a: list[Tensor] = []
        self._b: list[Tensor] = []
        # what a step measures from: the A and B at the start, or the random projections; and W's first value
        self._anchors: list[tuple[Tensor, Tensor]] = []
        self._first: list[Tensor | None] = []
        self._versions: list[int] = []  # of the low-precision matrices, when they were last written here
        groups = list(params)
        if not groups:
            raise ValueError("LoRAOptimizer got no parameters")
        groups = [dict(group) for group in groups] if isinstance(groups[0], dict) else [{"params": groups}]
        for group in groups:
            group["params"] = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        self.optimizer = inner([self._adapted_group(index, group) for index, group in enumerate(groups)])
        if isinstance(self.optimizer, OptimizerWrapper):
            name = type(self.optimizer).__name__
            raise ValueError(
                f"{name} inside LoRAOptimizer would see A and B in place of the model's parameters and their "
                f"gradients: give LoRAOptimizer the plain optimizer, and put {name} around it"
            )
        if not self._adapted:
            raise ValueError(f"LoRAOptimizer found no matrix larger than r={r} on both sides")
        self._groups = [_Group(self, index, group["params"]) for index, group in enumerate(groups)]
        self._hooks: dict[int, Any] = {}
        if free_gradients:
            for number, param in enumerate(self._adapted):
                if param.requires_grad:  # a frozen one that is thawed later has its gradient taken in `step`
                    self._hooks[number] = param.register_post_accumulate_grad_hook(self._make_hook(number))

    # --- adapters

    def _adapted_group(self, index: int, group: dict[str, Any]) -> dict[str, Any]:
        new = []
        for place, param in enumerate(group["params"]):
            matrix = group.get("lora", True) and group.get("kind", "matrix") == "matrix" and param.dim() == 2
            if matrix and min(param.shape) > self.r:
                self._numbers[index, place] = len(self._adapted)
                new += self._adapt(param)
            else:
                new.append(param)
        return {**group, "params": new}

    @property
    def param_groups(self):
        return self._groups

    def _replace(self, index: int, params: list[Tensor]) -> None:
        """Sharded parameters in place of a group's whole ones: Accelerate makes them after the optimizer."""
        places = {place: number for (group, place), number in self._numbers.items() if group == index}
        if len(params) != len(self._groups[index].params) or any(
            params[place].dim() != 2 or len(params[place]) != len(self._b[number]) for place, number in places.items()
        ):
            raise ValueError(
                "LoRAOptimizer works on whole matrices but was given flat pieces of them, as FSDP1 and DeepSpeed ZeRO "
                "make them: use FSDP2 (fully_shard) or DDP"
            )
        new: list[Tensor] = []
        for place, param in enumerate(params):
            if place not in places:
                new.append(param)
                continue
            number = places[place]
            new += [self._a[number], self._b[number]]
            self._adapted[number], self._versions[number] = param, -1
            self._follow(number)
            first = self._first[number]
            if isinstance(param, DTensor) and first is not None and not isinstance(first, DTensor):
                self._first[number] = distribute_tensor(first, param.device_mesh, param.placements)
            if number in self._hooks:
                self._hooks[number].remove()
                self._hooks[number] = param.register_post_accumulate_grad_hook(self._make_hook(number))
        self._groups[index].params = params
        self.optimizer.param_groups[index]["params"] = new

    def _adapt(self, param: Tensor) -> list[Tensor]:
        m, n = param.shape
        low_precision = param.dtype != compute_dtype(param)
        if self.variant == "additive" and (m % self.r or n % self.r):
            raise ValueError(f"the additive variant needs r={self.r} to divide both sides of a matrix {(m, n)}")
        if self.variant == "projection" and low_precision:
            raise ValueError("the projection variant changes W by full-rank sums: use float32 parameters")
        self._adapted.append(param)
        a, b = self._draw(param, len(self._adapted) - 1)
        self._anchors.append((a, b))
        start = (a, b) if self.variant == "lora" else (torch.zeros_like(a), torch.zeros_like(b))
        self._a.append(nn.Parameter(start[0].clone()))
        self._b.append(nn.Parameter(start[1].clone()))
        self._first.append(param.detach().clone() if low_precision else None)
        self._versions.append(param._version)
        return [self._a[-1], self._b[-1]]

    def _draw(self, param: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """A (r, n) and B (m, r) from the seed, the matrix's number and the period: the same on every rank."""
        m, n = param.shape
        period = self.num_steps // self.refresh
        generator = torch.Generator().manual_seed(hash((self.seed, index, period)) % 2**63)
        a, b = torch.empty(self.r, n, dtype=torch.float64), torch.zeros(m, self.r, dtype=torch.float64)
        if self.init == "peft":
            bound = n**-0.5  # kaiming_uniform_ with a = √5, as nn.Linear and peft
            a.uniform_(-bound, bound, generator=generator)
        else:
            a.normal_(std=self.r**-0.5, generator=generator)
            b.normal_(std=self.r**-0.5, generator=generator)
        dtype = compute_dtype(param)
        return a.to(param.device, dtype), b.to(param.device, dtype)

    @torch.no_grad()
    def _follow(self, number: int) -> None:
        """A and B go where their matrix went since they were made, as to the GPU by `accelerator.prepare`."""
        device = self._adapted[number].device
        if self._a[number].device != device:
            for virtual in (self._a[number], self._b[number]):
                virtual.data = virtual.to(device)
            a, b = self._anchors[number]
            self._anchors[number] = a.to(device), b.to(device)
            if (first := self._first[number]) is not None:
                self._first[number] = first.to(device)

    @staticmethod
    def _like(value: Tensor, other: Tensor, placements: Sequence[Placement] | None = None) -> Tensor:
        """value on the mesh of `other`, if that is sharded: replicated, or with the placements given."""
        if not isinstance(other, DTensor):
            return value
        mesh = other.device_mesh
        replicated = DTensor.from_local(value, mesh, [Replicate()] * mesh.ndim, run_check=False)
        return replicated if placements is None else replicated.redistribute(placements=placements)

    def _gradients(self, grad: Tensor, index: int) -> tuple[Tensor, Tensor]:
        if self.variant == "additive":
            return additive_gradients(self._gathered(grad), self.r)
        a, b = (self._a[index], self._b[index]) if self.variant == "lora" else self._anchors[index]
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

    def _delta(self, param: Tensor, index: int, old: tuple[Tensor, Tensor]) -> Tensor:
        """Change of W when A and B went from `old` to what they are."""
        a, b = self._a[index].detach(), self._b[index].detach()
        if self.variant == "lora":
            return self._product(b, a, param) - self._product(old[1], old[0], param)
        if self.variant == "additive":
            placements = param.placements if isinstance(param, DTensor) else None
            return self._like(additive_delta(a - old[0], b - old[1]), param, placements)
        fixed_a, fixed_b = self._anchors[index]
        return (self._product(fixed_b, a - old[0], param) + self._product(b - old[1], fixed_a, param)) / 2

    def _since_first(self, index: int) -> Tensor:
        """Change of a low-precision W since its first value."""
        zeros = torch.zeros_like(self._a[index]), torch.zeros_like(self._b[index])
        return self._delta(self._adapted[index], index, self._anchors[index] if self.variant == "lora" else zeros)

    def _take_over(self, index: int) -> None:
        """Choose the first value anew where somebody else has set a low-precision W."""
        param, first = self._adapted[index], self._first[index]
        if first is None or param._version == self._versions[index]:
            return
        change = self._since_first(index)
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
        return bool(self._hooks) or getattr(self.optimizer, "folds_gradients", False)

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

    def _make_hook(self, index: int) -> Callable[[Tensor], None]:
        def hook(param: Tensor) -> None:
            if is_distributed() and not isinstance(param, DTensor):
                raise RuntimeError(
                    "free_gradients=True takes the gradient before DistributedDataParallel has averaged it over the "
                    "ranks; use FSDP2, or leave free_gradients off"
                )
            self._project(param, index)
            param.grad = None

        return hook

    def close(self) -> None:
        """Remove the hooks; gradients are then taken in `step`."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks = {}

    def __getstate__(self) -> dict[str, Any]:
        # a copy has no hooks, and takes its gradients in `step`; versions are those of these tensors
        return {**self.__dict__, "_hooks": {}, "_versions": [-1] * len(self._adapted)}

    @torch.no_grad()
    def _project(self, param: Tensor, index: int) -> None:
        """Add a gradient of W to those of A and B."""
        self._follow(index)
        grad = gradient_of(param).to(compute_dtype(param))
        virtual = self._a[index], self._b[index]
        for part, new in zip(virtual, self._gradients(grad, index), strict=True):
            part.grad = new if part.grad is None else part.grad + new

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        raise RuntimeError("LoRAOptimizer takes all its parameters at construction")

    def zero_grad(self, set_to_none: bool = True) -> None:
        for param in self._adapted:
            if set_to_none:
                param.grad = None
            elif param.grad is not None:
                param.grad.zero_()
        self.optimizer.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move A and B by the inner optimizer, and W with them."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        old: dict[int, tuple[Tensor, Tensor]] = {}
        try:
            for i, param in enumerate(self._adapted):
                if param.grad is not None:
                    self._project(param, i)
                # inside an accumulation window there may be gradients of earlier micro-steps
                if self._a[i].grad is not None or self.accumulation_steps > 1:
                    self._take_over(i)
                    old[i] = self._a[i].detach().clone(), self._b[i].detach().clone()
            self.optimizer.step()
        finally:  # after an error too, or the next step would add the same gradients again
            for virtual in (*self._a, *self._b):
                virtual.grad = None
        for i, before in old.items():
            param, first = self._adapted[i], self._first[i]
            if first is None:
                param.add_(self._delta(param, i, before))
            else:
                param.copy_(first.to(compute_dtype(param)) + self._since_first(i))
                self._versions[i] = param._version
            if self.variant == "projection":
                self._a[i].zero_()
                self._b[i].zero_()
        # inside a window the inner state belongs to the A and B that the window began with
        if self.at_boundary:
            self.num_steps += 1
            if self.variant == "projection" and self.num_steps % self.refresh == 0:
                self._refresh()
        return loss

    def _refresh(self) -> None:
        for i, param in enumerate(self._adapted):
            self._anchors[i] = self._draw(param, i)
            for virtual in (self._a[i], self._b[i]):
                self.optimizer.state.pop(virtual, None)

    # --- checkpoints and export

    def _tensors(self, index: int) -> dict[str, Tensor]:
        a, b = self._anchors[index]
        tensors = {"a": self._a[index].detach(), "b": self._b[index].detach(), "anchor_a": a, "anchor_b": b}
        return tensors if (first := self._first[index]) is None else {**tensors, "first": first}

    def state_dict(self) -> StateDict:
        """The inner optimizer's, and under "lora" A, B and what they are measured from, by number of the matrix."""
        adapters = {i: self._tensors(i) for i in range(len(self._adapted))}
        return {**self.optimizer.state_dict(), "lora": {"num_steps": self.num_steps, "adapters": adapters}}

    @torch.no_grad()
    def load_state_dict(self, state_dict: StateDict) -> None:
        """Resumes exactly; load the model's weights too, before or after.

        Raises:
            ValueError: the checkpoint is not that of a LoRAOptimizer with the same matrices and the same r. Nothing is
                changed then.
        """
        if "lora" not in state_dict:
            raise ValueError("the checkpoint is not that of a LoRAOptimizer: it has no entry 'lora'")
        # JSON makes strings of numbers
        saved = {int(key): adapter for key, adapter in state_dict["lora"]["adapters"].items()}
        if len(saved) != len(self._adapted):
            raise ValueError(f"the checkpoint adapts {len(saved)} matrices, this optimizer {len(self._adapted)}")
        for i in range(len(self._adapted)):
            self._follow(i)
            for name, mine in self._tensors(i).items():
                theirs = saved[i].get(name)
                # a float32 run has no first values; they are found from the weights at the next step
                if name != "first" and (theirs is None or theirs.shape != mine.shape):
                    found = "no" if theirs is None else f"{(*theirs.shape,)} as"
                    raise ValueError(
                        f"the checkpoint has {found} {name!r} of adapted matrix {i}, this optimizer "
                        f"{(*mine.shape,)}: make it with the r and the matrices of the checkpoint"
                    )
        self.optimizer.load_state_dict({k: v for k, v in state_dict.items() if k != "lora"})
        self.num_steps = state_dict["lora"]["num_steps"]
        for i, adapter in saved.items():
            for name, mine in self._tensors(i).items():
                if name in adapter:
                    mine.copy_(adapter[name])
        self._versions = [-1] * len(self._adapted)  # the weights may come from elsewhere

    def save_peft(self, model: nn.Module, folder: str | Path, *, base: str = "") -> None:
        """Write a peft LoRA adapter that turns the model as it was at the start into what it is now.

        With the symmetric init the change s (B A - B0 A0) has rank 2 r, and so has the adapter. Tied nn.Linear get it
        one by one: use the adapter as it is, because merging it would add it to their common weight once for each.

        Args:
            model: the trained model, for the names of its modules.
            folder: gets adapter_config.json and adapter_model.safetensors; `PeftModel.from_pretrained` reads it.
            base: name or path of the base model for the config.

        Raises:
            ValueError: not variant "lora", an adapted matrix that is not the weight of an nn.Linear of `model` or is
                tied to something else (an embedding), or other parameters were trained too, which an adapter cannot
                hold.
        """
        if self.variant != "lora":
            raise ValueError(f"peft has no adapter for variant={self.variant!r}: save the whole model")
        num_others = sum(len(group.params) for group in self._groups) - len(self._adapted)
        if num_others:
            raise ValueError(
                f"{num_others} parameters were trained without low rank and would be missing in the adapter: "
                "give LoRAOptimizer only matrices, or save the whole model"
            )
        pairs: list[tuple[Tensor, Tensor]] = list(zip(self._a, self._b, strict=True))
        if self.init == "symmetric":
            pairs = [
                (torch.cat([a, a0]), torch.cat([b, -b0], 1))
                for (a, b), (a0, b0) in zip(pairs, self._anchors, strict=True)
            ]
        layers = layers_of(model, self._adapted)
        write_adapter(Path(folder), layers, pairs, alpha=self.scale * len(pairs[0][0]), base=base)
