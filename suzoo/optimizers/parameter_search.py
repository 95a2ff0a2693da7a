"""ParameterSearch: train on any score of the model's output by trying a few disturbed parameters.

Source: Welleck and Cho 2020, "MLE-guided parameter search" (MGS), arXiv 2006.03158; Su, kexue.fm/archives/7521. An
update is the mean of p(Δ) ∝ exp(-(l(θ + Δ) - l(θ)) / α), estimated with importance weights from candidates drawn
around 0 and around the step of the differentiable loss. The task loss l may be anything: 1 - BLEU, repetition,
non-termination.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Replicate
from torch.optim import Optimizer
from torch.optim.optimizer import StateDict

from suzoo.distributed import all_reduce_mean, all_true, is_distributed
from suzoo.optimizers._accumulation import only_makes_state
from suzoo.optimizers._compiled import run_eagerly
from suzoo.optimizers._options import NOT_NEGATIVE
from suzoo.optimizers._tensors import compute_dtype, local
from suzoo.optimizers._wrapper import OptimizerWrapper
from suzoo.optimizers.accumulated import Accumulated
from suzoo.optimizers.param_groups import is_flat_piece

Density = Literal["unit", "true"]
NoiseScale = Literal["uniform", "constant"]


def mixture_log_density(square: Tensor, product: Tensor, guide_square: Tensor) -> Tensor:
    """Log density, but for a constant, of ½ N(0, 1) + ½ N(g, 1) at Δ.

    Args:
        square, product, guide_square: (K,), (K,) and (): Δ·Δ, Δ·g and g·g; divide all by σ² for another σ.
    """
    # the exponentials themselves underflow from Δ·Δ = 1500 on
    return math.log(0.5) - square / 2 + torch.logaddexp(torch.zeros_like(product), product - guide_square / 2)


def search_weights(current: float, candidates: Tensor, log_density: Tensor, *, beta: float) -> Tensor:
    """(K,) weights softmax(β (l(θ) - l(θ + Δ_k)) - log q(Δ_k)) of candidates with task losses `candidates` (K,)."""
    return torch.softmax(beta * (current - candidates) - log_density, 0)


def _wide(tensor: Tensor) -> Tensor:
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()  # MPS has no float64


def _together(parts: list[Tensor]) -> Tensor:
    """Stacked on the device of the first: a model may be on several."""
    return torch.stack([part.to(parts[0].device) for part in parts])


def _total(parts: list[Tensor]) -> Tensor:
    return _together(parts).sum(0)


@dataclass
class SearchResult:
    """What one step saw: the task loss before it, those of the candidates, and their weights."""

    current: float
    candidates: list[float]
    weights: list[float]


class ParameterSearch(OptimizerWrapper):
    """MGS around any optimizer, which takes the mean of the candidates as its negative gradient.

        mle_loss.backward()
        search.step(lambda: repetition(decode(model, batch)))
        search.zero_grad()

    A training loop that calls `step()` by itself finds the task loss in `search.task_loss`, set before every step, and
    what the step saw in `search.result`.

    Args:
        optimizer: any torch optimizer; its groups and state are this object's. Accumulated belongs around
            ParameterSearch, not inside, with `search.task_loss` set.
        num_candidates: K. Candidates 0, 2, 4, ... are the guide g (the clipped negative gradient) plus noise, the
            others noise alone.
        beta: 1/α, how much a lower task loss counts. It looks at the scores only where it is above 1 / (the spread of
            the candidates' losses); 100 to 1,000 for repetition or ROUGE.
        noise: standard deviation σ of the noise, in "constant" units or, "uniform", in units of each tensor's mean |g|.
        noise_scale: see noise.
        density: of the candidates in the importance weights. "unit": with σ = 1 whatever it is, the authors' code,
            which hardly differs between candidates. "true": with the σ used, the estimator of the paper; with n
            parameters the log densities then differ by about √(n/2), so beyond some hundred parameters they drown the
            task loss.
        max_grad_norm: clip the gradient before, and the mean of the candidates after; None is off.
        seed: of the noise. Candidates are drawn again from seeds instead of stored; memory is one copy of the
            parameters (they come back to the same bits) and one gradient.

    Distributed: gradients must be the reduced ones; the task loss is averaged over the ranks; FSDP2 parameters get
    noise of their own on every shard.

    Raises:
        ValueError: an option out of range, or an optimizer that accumulates gradients.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        num_candidates: int = 4,
        beta: float = 1.0,
        noise: float = 1.0,
        noise_scale: NoiseScale = "uniform",
        density: Density = "unit",
        max_grad_norm: float | None = 1.0,
        seed: int = 0,
    ):
        NOT_NEGATIVE.check("ParameterSearch", "beta", beta)
        if num_candidates < 1:
            raise ValueError(f"num_candidates must be at least 1, not {num_candidates}")
        if not (noise > 0 and math.isfinite(noise)):
            raise ValueError(f"noise must be positive and finite, not {noise}")
        if noise_scale not in ("uniform", "constant"):
            raise ValueError(f"noise_scale must be 'uniform' or 'constant', not {noise_scale!r}")
        if density not in ("unit", "true"):
            raise ValueError(f"density must be 'unit' or 'true', not {density!r}")
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be positive or None, not {max_grad_norm}")
        if getattr(optimizer, "folds_gradients", False):
            raise ValueError(
                f"{type(optimizer).__name__} with accumulation keeps no gradient for ParameterSearch to guide"
            )
        if isinstance(optimizer, Accumulated):
            raise ValueError(
                "ParameterSearch puts its own gradient into the place of the sum that Accumulated keeps: put "
                "Accumulated around ParameterSearch, and set search.task_loss"
            )
        self.optimizer = optimizer
        self.num_candidates, self.beta, self.seed = num_candidates, beta, seed
        self.noise, self.noise_scale, self.density, self.max_grad_norm = noise, noise_scale, density, max_grad_norm
        self.num_steps = 0
        self.task_loss: Callable[[], float] | None = None
        self.result: SearchResult | None = None

    def _noises(self, params: list[Tensor], sigmas: list[Tensor], candidate: int) -> Iterator[Tensor]:
        """This rank's noise of every parameter for one candidate, the same whenever it is asked for."""
        generators: dict[tuple, torch.Generator] = {}
        for param, sigma in zip(params, sigmas, strict=True):
            shard: tuple[int, ...] = ()
            if isinstance(param, DTensor):
                coordinate = param.device_mesh.get_coordinate() or ()
                shard = tuple(c for c, p in zip(coordinate, param.placements, strict=True) if p.is_shard())
            key = (param.device, shard)
            if key not in generators:
                seed = hash((self.seed, self.num_steps, candidate, *shard)) % 2**63
                generators[key] = torch.Generator(param.device).manual_seed(seed)
            part = local(param)
            dtype = compute_dtype(param)
            yield sigma * torch.randn(part.shape, generator=generators[key], dtype=dtype, device=param.device)

    @staticmethod
    def _sum(values: Tensor, param: Tensor) -> Tensor:
        """Sums over this rank's part, completed over the shards of param."""
        if not isinstance(param, DTensor):
            return values
        placements = [Partial() if p.is_shard() else Replicate() for p in param.placements]
        return DTensor.from_local(values, param.device_mesh, placements, run_check=False).full_tensor()

    @run_eagerly
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update; returns the task loss before it, and leaves what it saw in `result`.

        Args:
            closure: the task loss. Called num_candidates + 1 times, without gradients, with the model's parameters
                disturbed in place; returns the loss to lower (a rank's own, in distributed training). Default:
                `self.task_loss`.

        Raises:
            ValueError: no task loss, no parameter has a gradient, a gradient or a task loss is not finite, or the
                parameters are not those of the model, but flat copies (DeepSpeed ZeRO). The weights stay as they are.
        """
        for group in self.param_groups:
            if any(is_flat_piece(group, param) for param in group["params"]):
                raise ValueError(
                    "ParameterSearch disturbs the model's parameters but was given flat copies of them, as DeepSpeed "
                    "ZeRO makes them: use DDP or FSDP2"
                )
        if only_makes_state(self):
            self.optimizer.step()
            return None
        task_loss = closure or self.task_loss
        if task_loss is None:
            raise ValueError("ParameterSearch.step needs a task loss: give it one, or set search.task_loss before")
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not params:
            raise ValueError("ParameterSearch.step needs the gradient of the differentiable loss: call backward first")
        self._check_finite(params)
        if self.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(params, self.max_grad_norm)
        guides = [-local(p.grad).to(compute_dtype(p)) for p in params]
        if self.noise_scale == "uniform":
            # σ of a tensor: noise times the mean |g| over all its shards
            sigmas = [self.noise * self._sum(g.abs().sum(), p) / p.numel() for g, p in zip(guides, params, strict=True)]
        else:
            sigmas = [torch.full((), self.noise, dtype=g.dtype, device=g.device) for g in guides]
        current = self._evaluate(task_loss)
        start = [local(p).clone() for p in params]
        losses, squares_and_products = [], []
        try:
            for k in range(self.num_candidates):
                dots = []
                for p, origin, g, sigma, noise in zip(
                    params, start, guides, sigmas, self._noises(params, sigmas, k), strict=True
                ):
                    delta = noise + g if k % 2 == 0 else noise
                    local(p).copy_(origin.to(delta.dtype) + delta)
                    dots.append(torch.stack([self._dot(delta, delta, sigma, p), self._dot(delta, g, sigma, p)]))
                squares_and_products.append(_total(dots))
                losses.append(self._evaluate(task_loss))
        finally:
            for p, origin in zip(params, start, strict=True):
                local(p).copy_(origin)
        guide_square = _total([self._dot(g, g, s, p) for g, s, p in zip(guides, sigmas, params, strict=True)])
        # all that the host must know, in one read
        seen = torch.cat([guide_square.view(1), *squares_and_products]).cpu()
        log_density = mixture_log_density(seen[1::2], seen[2::2], seen[0])
        weights = search_weights(
            current, torch.tensor(losses, dtype=torch.float64), log_density, beta=self.beta
        ).tolist()
        # the mean of the candidates, from the same seeds, as a descent direction
        means = [g * sum(weights[::2]) for g in guides]
        for k, weight in enumerate(weights):
            for mean, noise in zip(means, self._noises(params, sigmas, k), strict=True):
                mean.add_(noise, alpha=weight)
        for p, mean in zip(params, means, strict=True):
            local(p.grad).copy_(-mean)
        if self.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(params, self.max_grad_norm)
        self.optimizer.step()
        self.num_steps += 1
        self.result = SearchResult(current, losses, weights)
        return current

    def _dot(self, a: Tensor, b: Tensor, sigma: Tensor, param: Tensor) -> Tensor:
        """a·b over all shards, in units of the density's σ²; a tensor without gradient has no noise and counts 0."""
        value = self._sum((_wide(a) * _wide(b)).sum(), param)
        if self.density == "unit":
            return value
        variance = _wide(sigma).square()
        return torch.where(variance > 0, value / variance, 0.0)

    def _check_finite(self, params: list[Tensor]) -> None:
        finite = bool(_together([local(p.grad).isfinite().all() for p in params]).all())
        if not all_true(finite, self._device()):  # with shards only one rank may see it
            raise ValueError(
                "ParameterSearch.step got a gradient that is not finite, around which there is nothing to search: "
                "zero the gradients and go on with the next batch"
            )

    def _evaluate(self, task_loss: Callable[[], float]) -> float:
        value = float(task_loss())
        if is_distributed():
            value = float(all_reduce_mean(torch.full((), value, dtype=torch.float64, device=self._device())))
        if not math.isfinite(value):
            raise ValueError(f"ParameterSearch: the task loss must be finite, got {value}")
        return value

    def _device(self) -> torch.device:
        return self.param_groups[0]["params"][0].device

    def state_dict(self) -> StateDict:
        """The inner optimizer's, with the number of steps in the groups."""
        state = self.optimizer.state_dict()
        for group in state["param_groups"]:
            group["search_steps"] = self.num_steps
        return state

    def load_state_dict(self, state_dict: StateDict) -> None:
        groups = [dict(group) for group in state_dict["param_groups"]]
        steps = [group.pop("search_steps", None) for group in groups]
        if None in steps:
            raise ValueError(
                "ParameterSearch.load_state_dict: this is the state of an optimizer alone, without the number of "
                "steps; load it into search.optimizer"
            )
        self.optimizer.load_state_dict({**state_dict, "param_groups": groups})
        self.num_steps = steps[0]
