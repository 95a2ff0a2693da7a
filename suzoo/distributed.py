"""Ranks and the collectives the batch-coupled losses need: the only module that talks to torch.distributed.

Without an initialised process group every function is the identity on one rank, so callers never branch.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

Result = TypeVar("Result")


def is_distributed() -> bool:
    """True when a process group of more than one rank is running."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    return dist.get_world_size() if is_distributed() else 1


def _sizes(length: int, device: torch.device) -> list[int]:
    """Length of every rank's tensor, in rank order."""
    mine = torch.full((1,), length, device=device)
    sizes = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(sizes, mine)
    return torch.cat(sizes).tolist()  # one read, where each would wait


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
    return gather_all(local)[0]


def gather_all(*locals: Tensor) -> list[Tensor]:
    """`gather` of tensors of equally many rows, as scores and their labels; how many a rank has is asked once."""
    return gather_placed(*locals)[0]


def gather_placed(*locals: Tensor) -> tuple[list[Tensor], int]:
    """`gather_all`, and where this rank's rows start in the result."""
    if not is_distributed():
        return list(locals), 0
    sizes = _sizes(len(locals[0]), locals[0].device)
    return [_Gather.apply(local, sizes) for local in locals], sum(sizes[: rank()])


def gather_numbers(local: np.ndarray) -> np.ndarray:
    """`local` (N_rank, ...) of all ranks end to end, in rank order; N may differ."""
    if not is_distributed():
        return local
    return gather(torch.from_numpy(np.ascontiguousarray(local)).to(_meeting_place())).cpu().numpy()


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


def all_gather_objects(value: Any) -> list[Any]:
    """`value` of every rank (numbers, texts, lists, dicts), in rank order: for what is small and decides something."""
    if not is_distributed():
        return [value]
    device = _meeting_place()
    mine = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(device)
    sizes = _sizes(len(mine), device)
    padded = mine.new_zeros(max(sizes))
    padded[: len(mine)] = mine
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return [json.loads(bytes(part[:size].tolist())) for part, size in zip(parts, sizes, strict=True)]


def broadcast_bytes(value: bytes, *, source: int) -> bytes:
    """What rank `source` gives, on every rank."""
    if not is_distributed():
        return value
    device = _meeting_place()
    size = torch.tensor([len(value)], device=device)
    dist.broadcast(size, source)
    data = torch.frombuffer(bytearray(value), dtype=torch.uint8) if rank() == source and value else None
    data = torch.empty(int(size), dtype=torch.uint8) if data is None else data
    data = data.to(device)
    if len(data):
        dist.broadcast(data, source)
    return data.cpu().numpy().tobytes()


def _meeting_place() -> torch.device:
    """NCCL takes tensors of its own device only."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def together(work: Callable[[], Result]) -> Result:
    """Run `work` on every rank; where it fails on one, none goes on, and all raise that rank's sentence.

    Raises:
        ValueError, OSError: as `work` raised them here, or ValueError with what another rank raised.
    """
    error: Exception | None = None
    result: Any = None
    try:
        result = work()
    except (ValueError, OSError) as caught:
        error = caught
    messages = all_gather_objects(None if error is None else str(error))
    if error is not None:
        raise error
    for number, message in enumerate(messages):
        if message is not None:
            raise ValueError(f"process {number} stopped: {message}")
    return result


_LAST_WORDS = "suzoo/last_words"


def leave_word(message: str) -> None:
    """Tell the other ranks why this one stops, for `word_of_another`."""
    if is_distributed():
        with contextlib.suppress(RuntimeError, OSError):  # the store may be gone with the rank that held it
            _store().set(_LAST_WORDS, json.dumps([rank(), message]))


def word_of_another() -> str | None:
    """Why another rank stopped, where one said so before this rank lost its connection."""
    if not is_distributed():
        return None
    with contextlib.suppress(RuntimeError, OSError, ValueError):
        store = _store()
        for _ in range(20):
            if store.check([_LAST_WORDS]):
                number, message = json.loads(store.get(_LAST_WORDS))
                return None if number == rank() else f"process {number} stopped: {message}"
            time.sleep(0.1)
    return None


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()
