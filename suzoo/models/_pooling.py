"""One vector per sentence from its token states, padding ignored. Computed in float32 at least.

Shapes: B sentences of L padded tokens, or N sentences of T tokens end to end; D hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _at_least_float32(hidden: Tensor) -> Tensor:
    return hidden if hidden.dtype == torch.float64 else hidden.float()


def without_prompt(mask_BL: Tensor, prompt_length: int) -> Tensor:
    """The mask (B, L) without the first `prompt_length` tokens of each row; padding may stand left or right."""
    return mask_BL * (mask_BL.long().cumsum(1) > prompt_length) if prompt_length else mask_BL


def cls_pool(hidden_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """State of the first token that is not padding, (B, D): padding may stand left or right."""
    first_B = mask_BL.long().argmax(1)
    rows = torch.arange(hidden_BLD.shape[0], device=hidden_BLD.device)
    return _at_least_float32(hidden_BLD[rows, first_B])


def last_pool(hidden_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """State of the last token that is not padding, (B, D): padding may stand left or right."""
    last_B = mask_BL.shape[1] - 1 - mask_BL.long().flip(1).argmax(1)
    rows = torch.arange(hidden_BLD.shape[0], device=hidden_BLD.device)
    return _at_least_float32(hidden_BLD[rows, last_B])


def mean_pool(hidden_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """Mean over the tokens that are not padding, (B, D); a row of padding alone gives zeros."""
    mask_BL1 = _at_least_float32(mask_BL)[:, :, None]
    summed = (_at_least_float32(hidden_BLD) * mask_BL1).sum(1)
    return summed / mask_BL1.sum(1).clamp_min(1)


def flat_cls_pool(hidden_TD: Tensor, lengths_N: Tensor, prompt_length: int = 0) -> Tensor:
    """`cls_pool` of sentences end to end, (N, D), behind the first `prompt_length` tokens of each."""
    starts_N = lengths_N.cumsum(0) - lengths_N
    first_N = starts_N + prompt_length * (lengths_N > prompt_length)
    return _at_least_float32(hidden_TD[first_N])


def flat_last_pool(hidden_TD: Tensor, lengths_N: Tensor, prompt_length: int = 0) -> Tensor:
    """`last_pool` of sentences end to end, (N, D); what stands before the last token has no say."""
    return _at_least_float32(hidden_TD[lengths_N.cumsum(0) - 1])


def flat_mean_pool(hidden_TD: Tensor, lengths_N: Tensor, prompt_length: int = 0) -> Tensor:
    """`mean_pool` of sentences end to end, (N, D), without the first `prompt_length` tokens of each."""
    # the size, or the CPU would have to ask for it
    sentence_T = torch.repeat_interleave(lengths_N, output_size=len(hidden_TD))
    hidden_TD = _at_least_float32(hidden_TD)
    if prompt_length:
        starts_N = lengths_N.cumsum(0) - lengths_N
        place_T = torch.arange(len(sentence_T), device=hidden_TD.device) - starts_N[sentence_T]
        hidden_TD = hidden_TD * (place_T >= prompt_length)[:, None]
        lengths_N = lengths_N - prompt_length
    summed = hidden_TD.new_zeros(len(lengths_N), hidden_TD.shape[1]).index_add(0, sentence_T, hidden_TD)
    return summed / lengths_N[:, None].clamp_min(1)


# (padded, flat); first-last-avg is the mean of what its caller has averaged over layers
POOLINGS = {
    "cls": (cls_pool, flat_cls_pool),
    "mean": (mean_pool, flat_mean_pool),
    "last": (last_pool, flat_last_pool),
    "first-last-avg": (mean_pool, flat_mean_pool),
}
