"""The four masks, which are what tells the models of this folder apart.

    bidirectional   every token sees every token                              encoder, MLM
    causal          a token sees itself and its past                          DialoGPT
    prefix          the source sees itself, the target also its own past      UniLM
    off-diagonal    every token sees every token but itself                   T-TA

Nobody ever sees padding. With `config.attention_window` a token also sees only what is nearer than that, and the first
`config.attention_sinks` tokens. All four return what the attention implementation of `config` wants. For sdpa that is
a boolean (B, 1, L, S) with True = may attend, or None where it needs no mask. For eager it is the same as 0 / lowest
float, for flex a BlockMask. A mask that already has four dimensions is returned untouched. `inputs_embeds` only gives
batch, length, dtype and device.

Shapes: B batch, L new tokens (queries), S keys (cached and new), D hidden.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import Cache, PreTrainedConfig
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask

from ._versions import MASKS_TAKE_BLOCKS, cache_field


def window_rule(
    config: PreTrainedConfig,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    documents: Tensor | None = None,
) -> Callable[..., Tensor] | None:
    """Who is near enough, and in the same document, as an `and_mask_function` of transformers; None without a window.

    Beside it transformers must not look for documents in the position ids: with both rules its masks were wrong in the
    last rows (5.23, torch 2.13).
    """
    window, sinks = getattr(config, "attention_window", None), getattr(config, "attention_sinks", 0)
    if window is None:
        return None
    if documents is not None:  # packed rows: every document has a first token
        places_L = torch.arange(documents.shape[1], device=documents.device)
        is_start = torch.nn.functional.pad(documents.diff(dim=-1) != 0, (1, 0), value=True)
        first_BL = torch.where(is_start, places_L, 0).cummax(-1).values.expand(inputs_embeds.shape[0], -1)

        def may_see_packed(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            near = ((query - key).abs() < window) | (key < first_BL[batch, query] + sinks)
            return near & (first_BL[batch, query] == first_BL[batch, key])

        return may_see_packed
    if attention_mask is not None and len(attention_mask.shape) == 2:
        first_B = attention_mask.bool().int().argmax(-1)  # behind padding on the left
    else:
        first_B = torch.zeros(inputs_embeds.shape[0], dtype=torch.long, device=inputs_embeds.device)

    def may_see(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return ((query - key).abs() < window) | (key < first_B[batch] + sinks)

    return may_see


def causal_mask(
    config: PreTrainedConfig,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    cache: Cache | None = None,
    position_ids: Tensor | None = None,
    documents: Tensor | None = None,
):
    """A token sees itself and what stands before it, cached or not, in its own document.

    Args:
        attention_mask: (B, S) over cached and new tokens.
        position_ids: (1 or B, L); without mask and cache, documents packed into a row start where they do not go on.
        documents: (1 or B, L) `document_ids` of packed rows, for the sinks of a window.
    """
    near = window_rule(config, inputs_embeds, attention_mask, documents)
    if near is None:
        return create_causal_mask(
            config, inputs_embeds, attention_mask, **cache_field(cache), position_ids=position_ids
        )
    return create_causal_mask(config, inputs_embeds, attention_mask, **cache_field(cache), and_mask_function=near)


def prefix_mask(
    config: PreTrainedConfig,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    is_source: Tensor,
    cache: Cache | None = None,
    position_ids: Tensor | None = None,
    documents: Tensor | None = None,
):
    """Source tokens see the whole source; target tokens see the source and the target up to themselves.

    The same as "i sees j where cumsum(segment)[j] <= cumsum(segment)[i]" (kexue.fm 6933) for a source followed by a
    target. On top of a filled cache the new tokens are target tokens, and the rule is the causal one.

    Args:
        is_source: (B, L) boolean, True where the new token belongs to the source.
        position_ids: as in `causal_mask`.
        documents: (1 or B, L) `document_ids` of packed rows, so that a source sees its own document only.
    """
    if attention_mask is not None and len(attention_mask.shape) == 4:
        return attention_mask  # before the cache is asked: compiled with a static cache, its length is unknown here
    if cache is not None and cache.get_seq_length() > 0:
        return causal_mask(config, inputs_embeds, attention_mask, cache)
    # tokens of one block see each other; -1 is no block, which leaves the causal rule
    blocks_BL = torch.where(is_source, 0 if documents is None else documents, -1)
    near = window_rule(config, inputs_embeds, attention_mask, documents)
    if near is None and MASKS_TAKE_BLOCKS:
        blocks = {"block_sequence_ids": blocks_BL}
        return create_causal_mask(
            config, inputs_embeds, attention_mask, **cache_field(cache), position_ids=position_ids, **blocks
        )
    if near is None and documents is not None:
        rows_BL = documents.expand(*blocks_BL.shape)

        def same_document(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return rows_BL[batch, query] == rows_BL[batch, key]

        near = same_document
    # transformers would join the blocks behind the window, and so let a source see all of itself
    num_keys = blocks_BL.shape[1] if cache is None else cache.get_mask_sizes(blocks_BL.shape[1], 0)[0]
    blocks_BS = torch.nn.functional.pad(blocks_BL, (0, num_keys - blocks_BL.shape[1]), value=-1)

    def same_block(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (blocks_BS[batch, query] >= 0) & (blocks_BS[batch, query] == blocks_BS[batch, key])

    return create_causal_mask(
        config,
        inputs_embeds,
        attention_mask,
        **cache_field(cache),
        or_mask_function=same_block,
        and_mask_function=near,
    )


def off_diagonal_mask(
    config: PreTrainedConfig, inputs_embeds: Tensor, attention_mask: Tensor | None, documents: Tensor | None = None
):
    """Every token sees every token of its document but itself (kexue.fm 7661). The row of a lone token is empty: see
    `_attention`. `documents` (B, L) are the `document_ids` of packed rows."""
    near = window_rule(config, inputs_embeds, attention_mask, documents)

    def may_see(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = query != key
        if documents is not None:
            seen = seen & (documents[batch, query] == documents[batch, key])
        return seen if near is None else seen & near(batch, head, query, key)

    return create_bidirectional_mask(config, inputs_embeds, attention_mask, and_mask_function=may_see)
