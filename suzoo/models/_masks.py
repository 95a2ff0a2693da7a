"""The four masks, which are what tells the models of this folder apart.

    bidirectional   every token sees every token                              encoder, MLM
    causal          a token sees itself and its past                          DialoGPT
    prefix          the source sees itself, the target also its own past      UniLM
    off-diagonal    every token sees every token but itself                   T-TA

Nobody ever sees padding. All four return what the attention implementation of `config` wants: a boolean (B, 1, L, S)
with True = may attend for sdpa, the same as 0 / lowest float for eager, a BlockMask for flex, or None where sdpa needs
no mask. A mask that already has four dimensions is returned untouched. `inputs_embeds` only gives batch, length, dtype
and device.

Shapes: B batch, L new tokens (queries), S keys (cached and new), D hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Cache, PreTrainedConfig
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask


def bidirectional_mask(config: PreTrainedConfig, inputs_embeds: Tensor, attention_mask: Tensor | None):
    """Every token sees every token. `attention_mask` (B, L): 1 for tokens, 0 for padding; None is all ones."""
    return create_bidirectional_mask(config, inputs_embeds, attention_mask)


def causal_mask(
    config: PreTrainedConfig,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    cache: Cache | None = None,
    position_ids: Tensor | None = None,
):
    """A token sees itself and what stands before it, cached or not, in its own document.

    Args:
        attention_mask: (B, S) over cached and new tokens.
        position_ids: (1 or B, L); without mask and cache, documents packed into a row start where they do not go on.
    """
    return create_causal_mask(config, inputs_embeds, attention_mask, cache, position_ids=position_ids)


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
    return create_causal_mask(
        config, inputs_embeds, attention_mask, cache, position_ids=position_ids, block_sequence_ids=blocks_BL
    )


def off_diagonal_mask(
    config: PreTrainedConfig, inputs_embeds: Tensor, attention_mask: Tensor | None, documents: Tensor | None = None
):
    """Every token sees every token of its document but itself (kexue.fm 7661). The row of a lone token is empty: see
    `_attention`. `documents` (B, L) are the `document_ids` of packed rows."""

    def may_see(batch, head, query, key):
        other = query != key
        return other if documents is None else other & (documents[batch, query] == documents[batch, key])

    return create_bidirectional_mask(config, inputs_embeds, attention_mask, and_mask_function=may_see)
