"""Self-supervision by a heat equation on features (QB-Heat), experimental: what is left out follows by a linear map.

Sources: Chen et al., arXiv 2211.13228; Su, "用热传导方程来指导自监督学习", kexue.fm/archives/9359.
Shapes: B examples, L (or H, W) positions, D features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from suzoo.losses._common import upcast


def heat_extrapolate(block: Tensor, matrices: Sequence[Tensor], sizes: Sequence[int], start: Sequence[int]) -> Tensor:
    """Features of the whole sequence or grid from those of a block of it, outwards: z(x ± 1) = (I ± A) z(x).

    These are Euler steps of dz/dx = A z, so the scheme only goes away from the block and never in between. On a grid it
    goes along the last axis first; the order makes no difference if the matrices commute.

    Args:
        block: (B, l, D) of a sequence or (B, h, w, D) of a grid.
        matrices: one (D, D) per axis, learnt.
        sizes: (L,) or (H, W) of the whole. start: where the block begins.

    Returns:
        (B, L, D) or (B, H, W, D), float32 at least; the block itself is unchanged in it.

    Raises:
        ValueError: the numbers of axes differ, or the block does not lie inside.
    """
    num_axes = block.dim() - 2
    if not 0 < num_axes == len(matrices) == len(sizes) == len(start):
        raise ValueError(
            f"heat_extrapolate: a block of shape {(*block.shape,)} has {num_axes} axes; give as many matrices, sizes "
            f"and starts, not {len(matrices)}, {len(sizes)} and {len(start)}"
        )
    ends = [first + size for first, size in zip(start, block.shape[1:-1], strict=True)]
    if any(not 0 <= first < end <= size for first, end, size in zip(start, ends, sizes, strict=True)):
        raise ValueError(f"heat_extrapolate: the block {[*start]} to {ends} must not be empty and lie in {[*sizes]}")
    features = upcast(block)
    with torch.autocast(features.device.type, enabled=False):  # it would multiply in low precision
        for axis in reversed(range(num_axes)):
            step = upcast(matrices[axis]).T
            slices = list(features.unbind(axis + 1))
            for _ in range(start[axis]):
                slices.insert(0, slices[0] - slices[0] @ step)
            for _ in range(sizes[axis] - ends[axis]):
                slices.append(slices[-1] + slices[-1] @ step)
            features = torch.stack(slices, axis + 1)
    return features


def heat_equation_loss(features: Tensor, matrices: Sequence[Tensor], *, block: Sequence[tuple[int, int]]) -> Tensor:
    """Mean squared distance between the features outside a block and those that follow from it by the heat equation.

    Alone it is 0 for features that are all 0: use features that another loss keeps apart, detach them, or decode the
    result of `heat_extrapolate` and take the loss there, as the paper does with pixels.

    Args:
        features: (B, L, D) of a sequence or (B, H, W, D) of a grid.
        matrices: one (D, D) per axis, learnt.
        block: (first, last + 1) on every axis: what is given.

    Returns:
        Scalar, float32 at least; an attached 0 if nothing lies outside the block.

    Raises:
        ValueError: as `heat_extrapolate`.
    """
    sizes = features.shape[1:-1]
    if len(block) != len(sizes):
        raise ValueError(f"heat_equation_loss: features of shape {(*features.shape,)} need {len(sizes)} block bounds")
    inside = tuple(slice(first, end) for first, end in block)
    predicted = heat_extrapolate(features[(slice(None), *inside)], matrices, sizes, [first for first, _ in block])
    outside = torch.ones(sizes, dtype=torch.bool, device=features.device)
    outside[inside] = False
    squares = (predicted - upcast(features)).square().mean(-1)
    num_outside = math.prod(sizes) - math.prod(len(range(size)[part]) for size, part in zip(sizes, inside, strict=True))
    return torch.where(outside, squares, 0.0).sum() / max(num_outside * len(features), 1)


def heat_interpolate(left: Tensor, right: Tensor, length: int) -> Tensor:
    """(B, length, D) features of a gap between its neighbours (B, D): on a line the heat equation z'' = 0 is linear.

    The variant for text that kexue.fm/archives/9359 suggests, untested there: decode a left-out span of tokens from it.
    """
    if length < 1 or left.shape != right.shape:
        raise ValueError(f"heat_interpolate: {(*left.shape,)}, {(*right.shape,)} and length {length} do not fit")
    left, right = upcast(left)[:, None], upcast(right)[:, None]
    share = torch.arange(1, length + 1, device=left.device, dtype=left.dtype)[:, None] / (length + 1)
    return left + share * (right - left)
