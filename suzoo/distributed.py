"""Ranks and the collectives the batch-coupled losses need: the only module that talks to torch.distributed.

Without an initialised process group every function is the identity on one rank, so callers never branch.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """True when a process group of more than one rank is running."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    return dist.get_world_size() if is_distributed() else 1


def _sizes(length: int, device: torch.device) -> list[int]:
    """Length of every rank's tensor, in rank order."""
    mine = torch.tensor([length], device=device)
    sizes = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(sizes, mine)
    return [int(size) for size in sizes]


class _Gather(torch.autograd.Function):
    """Concatenate over ranks; the backward sums every rank's gradient of this rank's rows."""

    @staticmethod
    def forward(ctx, local: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        longest = max(sizes)
        padded = local.new_zeros((longest, *local.shape[1:]))
        padded[: local.shape[0]] = local
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        start = sum(ctx.sizes[: rank()])
        return grad[start : start + ctx.sizes[rank()]], None


def gather(local: Tensor) -> Tensor:
    """Concatenate `local` (N_rank, ...) of all ranks along dim 0, in rank order, differentiably.

    Every rank then computes the same full-batch loss. The backward sums over the ranks, which is what DDP's gradient
    averaging needs to give exactly the single-process gradient. N may differ between ranks; the other dimensions may
    not. On one rank this returns `local` itself.
    """
    if not is_distributed():
        return local
    sizes = _sizes(local.shape[0], local.device)
    return _Gather.apply(local, sizes)


def gather_numbers(local: np.ndarray) -> np.ndarray:
    """`local` (N_rank, ...) of all ranks end to end, in rank order; N may differ."""
    if not is_distributed():
        return local
    # NCCL takes tensors of its own device only
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else "cpu"
    return gather(torch.from_numpy(np.ascontiguousarray(local)).to(device)).cpu().numpy()


def all_reduce_sum(value: Tensor) -> Tensor:
    """Sum of `value` over ranks, detached: for counts and metrics, not for losses. A new tensor on every rank."""
    value = value.detach().clone()
    if is_distributed():
        dist.all_reduce(value)
    return value


def all_reduce_mean(value: Tensor) -> Tensor:
    """Mean of `value` over ranks, detached."""
    return all_reduce_sum(value) / world_size()


def all_true(flag: bool, device: torch.device | str = "cpu") -> bool:
    """True on every rank when `flag` is true on every rank: for decisions that all ranks must take together."""
    if not is_distributed():
        return flag
    value = torch.tensor([int(flag)], device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MIN)
    return bool(value.item())


def barrier() -> None:
    if is_distributed():
        dist.barrier()
