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
    config: PreTrainedConfig, inputs_embeds: Tensor, attention_mask: Tensor | None, cache: Cache | None = None
):
    """A token sees itself and what stands before it, cached or not. `attention_mask` (B, S) covers the cache too."""
    return create_causal_mask(config, inputs_embeds, attention_mask, cache)


def prefix_mask(
    config: PreTrainedConfig,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    is_source: Tensor,
    cache: Cache | None = None,
):
    """Source tokens see the whole source; target tokens see the source and the target up to themselves.

    The same as "i sees j where cumsum(segment)[j] <= cumsum(segment)[i]" (kexue.fm 6933) for a source followed by a
    target. On top of a filled cache the new tokens are target tokens, and the rule is the causal one.

    Args:
        is_source: (B, L) boolean, True where the new token belongs to the source.
    """
    if attention_mask is not None and len(attention_mask.shape) == 4:
        return attention_mask  # before the cache is asked: compiled with a static cache, its length is unknown here
    if cache is not None and cache.get_seq_length() > 0:
        return causal_mask(config, inputs_embeds, attention_mask, cache)
    # tokens of one block see each other; -1 is no block, which leaves the causal rule
    blocks_BL = torch.where(is_source, 0, -1)
    return create_causal_mask(config, inputs_embeds, attention_mask, cache, block_sequence_ids=blocks_BL)


def off_diagonal_mask(config: PreTrainedConfig, inputs_embeds: Tensor, attention_mask: Tensor | None):
    """Every token sees every token but itself (kexue.fm 7661). The row of a lone token is empty: see `_attention`."""
    return create_bidirectional_mask(
        config, inputs_embeds, attention_mask, and_mask_function=lambda batch, head, query, key: query != key
    )
