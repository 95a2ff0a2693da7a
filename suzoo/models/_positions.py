"""Where a token stands: position ids, NEZHA's relative sinusoids, RoPE.

Shapes: B batch, L new tokens (queries), S keys, H heads, K head size, R = 2 * max_relative_position + 1 distances.
"""

from __future__ import annotations

import torch
from torch import Tensor


def count_positions(
    attention_mask: Tensor | None, num_past: int | Tensor, num_new: int, device: torch.device
) -> Tensor:
    """(B or 1, L) positions of the new tokens, counting real tokens from 0, so that left padding changes nothing.

    Args:
        attention_mask: (B, S) over cached and new tokens, 1 for tokens; without two dimensions, slots are counted.
        num_past: tokens in the cache.
        num_new: L.
    """
    if attention_mask is None or attention_mask.dim() != 2:
        return torch.arange(num_new, device=device)[None] + num_past
    return (attention_mask.long().cumsum(-1) - 1).clamp_min(0)[:, -num_new:]


def relative_sinusoids(max_relative_position: int, head_size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """NEZHA's fixed table (R, K): row r is the interleaved sinusoid of position r (arXiv 1909.00204; bert4keras)."""
    rows_R = torch.arange(2 * max_relative_position + 1, device=device, dtype=torch.promote_types(dtype, torch.float32))
    return _sinusoids(rows_R, head_size, 10000.0).to(dtype)


def relative_index(
    num_past: int | Tensor, num_new: int, num_keys: int, max_relative_position: int, device: torch.device
) -> Tensor:
    """(L, S) row of NEZHA's table for each query and key: key minus query slot, clipped. The first query stands at
    slot `num_past`; slots, not position ids, because padding shifts queries and keys alike."""
    queries_L = torch.arange(num_new, device=device) + num_past
    keys_S = torch.arange(num_keys, device=device)
    distance_LS = keys_S[None, :] - queries_L[:, None]
    return distance_LS.clamp(-max_relative_position, max_relative_position) + max_relative_position


def rotary_angles(position_ids: Tensor, head_size: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Sine and cosine (B, 1, L, K / 2) of the angles by which RoPE turns each pair, computed in float32 at least."""
    positions_BL = position_ids.to(torch.promote_types(dtype, torch.float32))
    sinusoids_B1LK = _sinusoids(positions_BL, head_size, theta).to(dtype)[:, None]
    return sinusoids_B1LK[..., 0::2], sinusoids_B1LK[..., 1::2]


def rotate(states_BHLK: Tensor, sin_B1LK: Tensor, cos_B1LK: Tensor) -> Tensor:
    """Turn the pairs (0, 1), (2, 3), … of queries or keys by their position's angles (kexue.fm 8265, equation 13)."""
    even, odd = states_BHLK[..., 0::2], states_BHLK[..., 1::2]
    turned = torch.stack([even * cos_B1LK - odd * sin_B1LK, odd * cos_B1LK + even * sin_B1LK], dim=-1)
    return turned.flatten(-2)


def _sinusoids(positions: Tensor, head_size: int, theta: float) -> Tensor:
    """(..., K): sine at even, cosine at odd columns of position * theta^(-2i/K)."""
    pairs = torch.arange(0, head_size, 2, device=positions.device, dtype=positions.dtype)
    angles = positions[..., None] * theta ** (-pairs / head_size)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
