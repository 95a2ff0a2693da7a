"""Where a token stands: position ids, NEZHA's relative sinusoids, RoPE.

Shapes: B batch, L new tokens (queries), S keys, H heads, K head size, R = 2 * max_relative_position + 1 distances.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Cache

EQUAL_MEAN = "equal_mean"


def count_positions(
    attention_mask: Tensor | None, num_past: int | Tensor, num_new: int, device: torch.device
) -> Tensor:
    """(B or 1, L) positions of the new tokens, counting real tokens from 0, so that left padding changes nothing.

    Args:
        attention_mask: (B, S) over cached and new tokens, 1 for tokens; without two dimensions, slots are counted.
        num_past: tokens in the cache.
        num_new: L.
    """
    if attention_mask is None or len(attention_mask.shape) != 2:
        return torch.arange(num_new, device=device)[None] + num_past
    return (attention_mask.long().cumsum(-1) - 1).clamp_min(0)[:, -num_new:]


def random_positions(
    num_rows: int, length: int, max_position: int, *, device: torch.device, generator: torch.Generator | None = None
) -> Tensor:
    """(B, L) positions drawn from 0 … max_position - 1 without repetition, in order (kexue.fm 9444; arXiv 2305.16843).

    Raises:
        ValueError: there are fewer positions than tokens.
    """
    if length > max_position:
        raise ValueError(f"{length} tokens cannot have {max_position} different positions")
    keys = torch.rand(num_rows, max_position, device=device, generator=generator)
    return keys.topk(length, dim=-1).indices.sort(-1).values


def equal_mean_positions(
    num_rows: int, length: int, *, device: torch.device, generator: torch.Generator | None = None
) -> Tensor:
    """(B, L) evenly spaced fractions from 0 to a last position that is exponential with mean `length`: Su's own form
    (kexue.fm 9444), for positions that may be fractions, such as RoPE's."""
    ends = torch.rand(num_rows, 1, device=device, generator=generator).clamp_min(1e-7).log() * -length
    return torch.linspace(0, 1, length, device=device) * ends


def training_positions(
    position_ids: Tensor, batch_size: int, rule: int | str | None, is_training: bool, cache: Cache | None
) -> Tensor:
    """(1 or B, L) in training those drawn by `rule`, the config's `random_positions`, else as given."""
    if rule is None or not is_training or (cache is not None and cache.get_seq_length() > 0):
        return position_ids
    length, device = position_ids.shape[-1], position_ids.device
    if rule == EQUAL_MEAN:
        return equal_mean_positions(batch_size, length, device=device)
    assert isinstance(rule, int)
    return random_positions(batch_size, length, rule, device=device)


def relative_sinusoids(max_relative_position: int, head_size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """NEZHA's fixed table (R, K): row r is the interleaved sinusoid of position r (arXiv 1909.00204; bert4keras)."""
    rows_R = torch.arange(2 * max_relative_position + 1, device=device, dtype=torch.promote_types(dtype, torch.float32))
    return _sinusoids(rows_R, head_size, 10000.0).to(dtype)


def document_ids(position_ids: Tensor | None, attention_mask: Tensor | None, cache: Cache | None) -> Tensor | None:
    """(1 or B, L) which document of its packed row a token belongs to; None where every row is one document.

    A document starts where a position is not its left neighbour's plus one, as in transformers, which looks for packed
    rows where there is no cache and no mask; a mask of ones is none here.
    """
    if position_ids is None or cache is not None or position_ids.dim() != 2:
        return None
    tracing = torch.compiler.is_compiling()
    if attention_mask is not None and (tracing or attention_mask.dim() != 2 or not attention_mask.all()):
        return None
    is_start = position_ids.diff(dim=-1) != 1
    if not tracing and not is_start.any():
        return None
    return torch.nn.functional.pad(is_start.cumsum(-1), (1, 0))


def relative_index(query_positions: Tensor, key_positions: Tensor, max_relative_position: int) -> Tensor:
    """(1 or B, L, S) row of NEZHA's table for each query (1 or B, L) and key (1 or B, S): key minus query, clipped."""
    distance_BLS = key_positions[:, None, :] - query_positions[:, :, None]
    return distance_BLS.clamp(-max_relative_position, max_relative_position) + max_relative_position


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
