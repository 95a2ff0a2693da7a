"""Attention over sentences that lie end to end in one row of tokens, without padding anything but the attention.

A stock encoder computes every token on its own except in attention. So a batch can go through it as (1, T) tokens with
positions that restart at each sentence, and only the attention has to keep the sentences apart. It pads there, in a few
groups of similar length. Shapes: T tokens of all sentences, H heads, K head size, N sentences of a group, L longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ._batching import optimal_cuts
from ._devices import all_to_device
from ._dropout import dropout as dropout_of
from ._matmul import attend_plainly

RAGGED_SDPA = "ragged_sdpa"
# Encoders that compute every token on its own but for attention, take it through transformers' interface, and positions
# as an argument
RAGGED_ENCODERS = ("bert", "camembert", "distilbert", "electra", "ernie", "modernbert", "roberta", "xlm-roberta")


@dataclass(frozen=True)
class LengthGroup:
    """A run of sentences: `slots` are the places of its tokens in N * L padded rows, `mask_NL` True = token."""

    num_tokens: int
    num_sentences: int
    longest: int
    slots: Tensor | None  # None: equal lengths, nothing to pad
    mask_NL: Tensor | None


@dataclass(frozen=True)
class RaggedLayout:
    """Where the sentences of a flat row lie. Sentences are in ascending order of length."""

    groups: tuple[LengthGroup, ...]
    lengths_N: Tensor


def ragged_layout(
    sorted_lengths: np.ndarray, device: torch.device, num_groups: int | None = None, beside: Sequence[np.ndarray] = ()
) -> tuple[RaggedLayout, list[Tensor]]:
    """Layout of sentences of ascending `sorted_lengths` (N,), for `ragged_attention`, and `beside` on the device: all
    that depends on the lengths is computed here and goes there in one copy.

    Args:
        num_groups: default is 4 on a CPU. An accelerator is kept busier by one, whose padding costs it less than the
            starts of more kernels.
        beside: arrays of whole numbers.
    """
    runs, slots = [], []
    for first, last in pairwise(optimal_cuts(sorted_lengths, num_groups or (4 if device.type == "cpu" else 1))):
        lengths = sorted_lengths[first:last]
        longest, total = int(lengths[-1]), int(lengths.sum())
        runs.append((total, first, last, longest))
        if total != longest * len(lengths):
            slots.append(np.flatnonzero(np.arange(longest) < lengths[:, None]))
    lengths_N, *moved = all_to_device([sorted_lengths, *slots, *beside], device)
    places = iter(moved)
    groups = []
    for total, first, last, longest in runs:
        is_padded = total != longest * (last - first)
        mask_NL = torch.arange(longest, device=device) < lengths_N[first:last, None] if is_padded else None
        groups.append(LengthGroup(total, last - first, longest, next(places) if is_padded else None, mask_NL))
    return RaggedLayout(tuple(groups), lengths_N), list(places)


def _pad(tokens_THK: Tensor, group: LengthGroup) -> Tensor:
    """The group's tokens as (N, H, L, K)."""
    if group.slots is not None:
        padded = tokens_THK.new_zeros(group.num_sentences * group.longest, *tokens_THK.shape[1:])
        tokens_THK = padded.index_copy(0, group.slots, tokens_THK)
    return tokens_THK.view(group.num_sentences, group.longest, *tokens_THK.shape[1:]).transpose(1, 2)


def _with_dropout(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, scaling: float | None
) -> Tensor:
    """What torch's attention computes on a CPU where there is dropout, with random numbers that are drawn faster."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    # laid out one after the other first: `@` would copy the transposed keys column by column
    rows, keys, values = (x.reshape(-1, *x.shape[2:]) for x in (query, key, value))
    scores = torch.baddbmm(rows.new_empty(()), rows, keys.transpose(1, 2), beta=0, alpha=scaling)
    scores = scores.view(*query.shape[:3], -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = dropout_of(scores.softmax(-1), dropout)
    return torch.bmm(weights.view(-1, *weights.shape[2:]), values).view_as(query)


def ragged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    ragged: RaggedLayout | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """Attention function for transformers' interface; without `ragged` it is the stock SDPA.

    query, key, value: (1, H, T, K). `sliding_window`: a token sees those nearer than this, as ModernBERT passes it.
    Returns (1, T, H, K) and no weights.
    """
    if ragged is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    # cut once, not group by group: the gradient is then put together once
    sizes = [group.num_tokens for group in ragged.groups]
    parts = zip(*(x.squeeze(0).transpose(0, 1).split(sizes) for x in (query, key, value)), strict=True)
    outputs = []
    for group, part in zip(ragged.groups, parts, strict=True):
        mask = None if group.mask_NL is None else group.mask_NL[:, None, None, :]
        if sliding_window is not None and group.longest > sliding_window:
            position = torch.arange(group.longest, device=query.device)
            near_LL = (position[:, None] - position[None, :]).abs() < sliding_window
            mask = near_LL if mask is None else mask & near_LL
        q_NHLK, k_NHLK, v_NHLK = (_pad(tokens_THK, group) for tokens_THK in part)
        if dropout and query.device.type == "cpu":
            out = _with_dropout(q_NHLK, k_NHLK, v_NHLK, mask, dropout, scaling)
        else:
            out = F.scaled_dot_product_attention(
                q_NHLK, k_NHLK, v_NHLK, attn_mask=mask, dropout_p=dropout, scale=scaling
            )
        out = out.transpose(1, 2).flatten(0, 1)
        outputs.append(out if group.slots is None else out.index_select(0, group.slots))
    return torch.cat(outputs)[None], None


AttentionInterface.register(RAGGED_SDPA, partial(attend_plainly, ragged_attention))
AttentionMaskInterface.register(RAGGED_SDPA, sdpa_mask)
