"""Tensor helpers: sharded tensors, compute precision, and storing a new value in a low-precision parameter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

Rounding = Literal["nearest", "kahan", "master", "stochastic"]
ROUNDINGS = ("nearest", "kahan", "master", "stochastic")
LOW_PARTS = ("kahan", "master")  # roundings that keep in a second tensor what the parameter cannot hold


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """float64 stays float64, everything else is computed in float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def full(tensor: Any) -> Any:
    """Finish a pending reduction of a sharded tensor; its other placements, and ordinary tensors, stay as they are.

    In-place operations and several functions (pow, rsqrt, comparisons) of a DTensor with a pending reduction fail or
    are wrong, which is how other AdaFactors break under FSDP2: every reduction goes through here first.
    """
    if isinstance(tensor, DTensor) and any(placement.is_partial() for placement in tensor.placements):
        return tensor.redistribute(placements=[Replicate() if p.is_partial() else p for p in tensor.placements])
    return tensor


def local(tensor: Any) -> Any:
    """This rank's part of a sharded tensor, sharing its memory; an ordinary tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def mean(tensor: Tensor, dim: int) -> Tensor:
    """Mean over dim, kept as size 1, over all shards: a sum, so that shards of any size simply add up."""
    return full(tensor.sum(dim, keepdim=True)) / max(tensor.shape[dim], 1)


def root_mean_square(tensor: Tensor) -> Tensor:
    """RMS over all elements of all shards, 0-d."""
    if isinstance(tensor, DTensor):
        total = full(tensor.square().sum())
    else:
        # in pieces, so that the squares stay in the cache (torch.dot and vector_norm would lose three digits)
        total = torch.stack([part[0].square().sum() for (part,) in cache_pieces([tensor])]).sum()
    return (total / max(tensor.numel(), 1)).sqrt()


def lerp(start: Tensor, end: Tensor, weight: float | Tensor) -> Tensor:
    """`start.lerp(end, weight)`. Of a tensor, torch's asks at every element whether it is below a half."""
    return start + weight * (end - start) if isinstance(weight, Tensor) else start.lerp(end, weight)


def cache_size() -> int:
    """Elements; the float32 streams of a rule on that many stay in the cores' caches, and every core has its share."""
    return torch.get_num_threads() << 17


def cache_pieces(*lists: list[Tensor]) -> Iterator[tuple[list[Tensor], ...]]:
    """Lists of tensors of equal shapes, on one device, to be worked on together. They come all at once; but a large
    tensor on a CPU comes in slices along its first dimension, so that each goes through a whole rule while it is in
    the cache. Tensors with fewer rows than the first list's (a number, say) are passed whole."""
    if lists[0] and lists[0][0].device.type != "cpu":
        yield lists
        return
    small, chunk = [], cache_size()
    for tensors in zip(*lists, strict=True):
        first = tensors[0]
        if first.numel() <= chunk or first.dim() == 0:
            small.append(tensors)
            continue
        rows = first.shape[0]
        count = max(1, chunk * rows // first.numel())
        for start in range(0, rows, count):
            piece = slice(start, start + count)
            yield tuple([t[piece] if t.dim() and t.shape[0] == rows else t] for t in tensors)
    if small:
        yield tuple(list(column) for column in zip(*small, strict=True))


def named_pieces(tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """`cache_pieces` of one tensor of each name."""
    for piece in cache_pieces(*([tensor] for tensor in tensors.values())):
        yield {name: part for name, (part,) in zip(tensors, piece, strict=True)}


def shrink(tensors: list[Tensor], factor: float) -> None:
    """Multiply all in place. By a tensor: a number would become one for each of them."""
    torch._foreach_mul_(tensors, torch.full((), factor, dtype=tensors[0].dtype, device=tensors[0].device))


def gradient_of(param: Tensor) -> Tensor:
    """The gradient, sharded as the parameter is."""
    grad = param.grad
    assert grad is not None
    if isinstance(grad, DTensor) and isinstance(param, DTensor) and grad.placements != param.placements:
        return grad.redistribute(placements=param.placements)
    return grad


def read(param: Tensor, compensation: Tensor | None) -> Tensor:
    """The parameter in compute precision, with the low bits that are kept beside it."""
    value = param.to(compute_dtype(param))
    return value if compensation is None else value + compensation


def write(param: Tensor, value: Tensor, compensation: Tensor | None, rounding: Rounding) -> None:
    """Store value in param. Only low-precision parameters are rounded in a special way."""
    if param.dtype == value.dtype or rounding == "nearest":
        param.copy_(value)
    elif rounding in LOW_PARTS:
        assert compensation is not None
        rounded = value.to(param.dtype)
        # what bf16 cannot hold goes into a second bf16: about 16 significant bits together; or into float32: all 24
        compensation.copy_(value - rounded.to(value.dtype))
        param.copy_(rounded)
    else:
        # up with the probability of the cut-off part: bf16 is the upper half of fp32
        bits = value.contiguous().view(torch.int32)
        noise = torch.randint_like(bits, 1 << 16)
        param.copy_(((bits + noise) & -(1 << 16)).view(torch.float32))
