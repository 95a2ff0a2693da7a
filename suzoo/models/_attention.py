"""Self-attention with BERT's parameter names, through transformers' attention interface.

Shapes: B batch, L queries, S keys, H heads, K head size, D = H * K hidden, R rows of NEZHA's table.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ._cache import give_room
from ._decoding import decoding_product
from ._dropout import dropout as dropout_of
from ._linear_attention import linear_attention_of_others, linear_layer, prefix_linear_attention
from ._matmul import attend_plainly
from ._position_kinds import (
    Places,
    distances,
    kerple_bias,
    kerple_start,
    rerope_correction,
    turned,
    xpos_scales,
)
from ._positions import rotate


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
    relative: tuple[Tensor, Tensor] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention written out, for attention weights and for NEZHA, whose value term needs the weights.

    A query that may see no key gets zero, as in sdpa: softmax alone would spread its attention over every key, so that
    in T-TA a lone token would see itself.

    Args:
        query: (B, H, L, K).
        key, value: (B, H, S, K).
        attention_mask: (B, 1, L, S) added to the scores; the lowest float forbids.
        scaling: factor of the scores.
        dropout: probability of dropping an attention weight.
        position_bias: (B or 1, H, L, S) added to the scaled scores.
        relative: NEZHA's `(index (1 or B, L, S), table (R, K))`, see `_positions`.
        kwargs: what transformers passes to every attention function and this one does not need.

    Returns:
        (B, L, H, K) and the weights (B, H, L, S).
    """
    scores_BHLS = query @ key.transpose(2, 3)
    if relative is not None:
        index_BLS, table_RK = relative
        index_BHLS = index_BLS[:, None].expand(*scores_BHLS.shape)
        scores_BHLS = scores_BHLS + (query @ table_RK.T).gather(-1, index_BHLS)
    scores_BHLS = scores_BHLS * scaling
    if position_bias is not None:
        scores_BHLS = scores_BHLS + position_bias
    if attention_mask is not None:
        lowest = torch.finfo(scores_BHLS.dtype).min
        # a negative score under the lowest float would be -inf, and an empty row NaN
        scores_BHLS = (scores_BHLS + attention_mask).clamp_min(lowest)
    weights_BHLS = scores_BHLS.softmax(-1)
    if attention_mask is not None:
        weights_BHLS = weights_BHLS.masked_fill(attention_mask <= lowest, 0.0)
    weights_BHLS = dropout_of(weights_BHLS, dropout, module.training)
    output_BHLK = weights_BHLS @ value
    if relative is not None:
        # weights of equal distance share a row of the table: sum them first, (L, S, K) never exists
        per_row_BHLR = weights_BHLS.new_zeros(*weights_BHLS.shape[:3], table_RK.shape[0])
        output_BHLK = output_BHLK + per_row_BHLR.scatter_add(-1, index_BHLS, weights_BHLS) @ table_RK
    return output_BHLK.transpose(1, 2).contiguous(), weights_BHLS


class SelfAttention(nn.Module):
    """Multi-head attention of `hidden` over itself, or over fixed `memory` (T-TA).

    Args:
        config: read at every call for the attention implementation, so that switching it works.
        layer_idx: place in the cache.
        is_causal: what no mask means to sdpa: the causal rule, or full attention.
    """

    def __init__(self, config: PreTrainedConfig, layer_idx: int, is_causal: bool) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = is_causal
        self.head_size = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_size**-0.5
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)  # a module, so that `apply` finds it
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.kind = config.position_embedding_type
        if self.kind.startswith("kerple"):
            log_r1_H, raw_r2_H = kerple_start(self.kind, config.num_attention_heads)
            self.log_r1, self.raw_r2 = nn.Parameter(log_r1_H), nn.Parameter(raw_r2_H)

    def forward(
        self,
        hidden_BLD: Tensor,
        attention_mask: Any = None,
        memory_BSD: Tensor | None = None,
        cache: Cache | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        relative: tuple[Tensor, Tensor] | None = None,
        places: Places | None = None,
        query_scale: Tensor | None = None,
        position_bias: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if self.config.is_linear:
            return self._attend_linearly(hidden_BLD, memory_BSD, cache, **kwargs), None
        implementation = self.config._attn_implementation
        if relative is not None:
            if implementation != "eager":
                raise ValueError(
                    f"NEZHA positions need attn_implementation='eager', not {implementation!r}: their value term is "
                    "made from the attention weights"
                )
            kwargs["relative"] = relative
        source_BSD = hidden_BLD if memory_BSD is None else memory_BSD
        together = decoding_product((self.query, self.key, self.value), hidden_BLD) if memory_BSD is None else None
        if together is None:
            states = self.query(hidden_BLD), self.key(source_BSD), self.value(source_BSD)
        else:
            states = together.chunk(3, -1)
        query_BHLK, key_BHSK, value_BHSK = map(self._heads, states)
        if query_scale is not None:
            query_BHLK = query_BHLK * query_scale
        if rotary is not None:
            query_BHLK, key_BHSK = rotate(query_BHLK, *rotary), rotate(key_BHSK, *rotary)
        if cache is not None:
            give_room(cache, self.layer_idx)
            key_BHSK, value_BHSK = cache.update(key_BHSK, value_BHSK, self.layer_idx)
        if places is not None:
            query_BHLK, key_BHSK, position_bias = self._place(query_BHLK, key_BHSK, places)
        if position_bias is not None:
            # flex wants it whole
            kwargs["position_bias"] = position_bias.expand(*query_BHLK.shape[:3], key_BHSK.shape[2])
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        output_BLHK, weights_BHLS = attend_plainly(
            attend,
            self,
            query_BHLK,
            key_BHSK,
            value_BHSK,
            attention_mask,
            dropout=self.dropout.p if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        if position_bias is not None and isinstance(attention_mask, Tensor) and attention_mask.dtype == torch.bool:
            # sdpa adds the bias to the lowest float, so that a query which may see nothing would see everything
            output_BLHK = output_BLHK.masked_fill(~attention_mask.any(-1).transpose(1, 2)[..., None], 0.0)
        return output_BLHK.flatten(2), weights_BHLS

    def _attend_linearly(
        self,
        hidden_BLD: Tensor,
        memory_BLD: Tensor | None,
        cache: Cache | None,
        key_mask: Tensor | None = None,
        is_source: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """(B, L, D). `key_mask` and `is_source` (B, L) are what other attention has in its mask."""
        if kwargs.get("output_attentions"):
            raise ValueError("linear attention has no attention weights to return: leave output_attentions out")
        source_BLD = hidden_BLD if memory_BLD is None else memory_BLD
        states = self.query(hidden_BLD), self.key(source_BLD), self.value(source_BLD)
        query_BHLK, key_BHLK, value_BHLK = map(self._heads, states)
        kind = self.config.attention_type
        if memory_BLD is not None:
            output_BHLK = linear_attention_of_others(query_BHLK, key_BHLK, value_BHLK, kind=kind, key_mask=key_mask)
        else:
            layer = None if cache is None else linear_layer(cache, self.layer_idx)
            output_BHLK, state = prefix_linear_attention(
                query_BHLK,
                key_BHLK,
                value_BHLK,
                kind=kind,
                key_mask=key_mask,
                is_source=is_source,
                state=None if layer is None else layer.state,
            )
            if layer is not None:
                layer.replace(state, hidden_BLD.shape[1])
        return self.dropout(output_BHLK.transpose(1, 2).flatten(2))

    def _place(self, query_BHLK: Tensor, key_BHSK: Tensor, places: Places) -> tuple[Tensor, Tensor, Tensor | None]:
        """Queries and keys turned, and what is added to their scores, for kinds whose keys stand in the cache as they
        are, or whose bias is learned in every layer."""
        queries, keys = places
        if self.kind.startswith("kerple"):
            bias_BHLS = kerple_bias(distances(queries, keys), self.kind, self.log_r1, self.raw_r2)
            return query_BHLK, key_BHSK, bias_BHLS.to(query_BHLK.dtype)
        theta = self.config.rope_theta
        bias_BHLS = None
        if self.kind != "xpos":
            slowdown = self.config.rope_slowdown if self.kind == "leaky_rerope" else None
            bias_BHLS = self.scaling * rerope_correction(
                query_BHLK, key_BHSK, queries, keys, theta=theta, window=self.config.rope_window, slowdown=slowdown
            )
        query_BHLK, key_BHSK = turned(query_BHLK, queries, theta), turned(key_BHSK, keys, theta)
        if self.kind == "xpos":
            centre, dtype = keys.amax(-1, keepdim=True) // 2, query_BHLK.dtype
            query_BHLK = query_BHLK * xpos_scales(queries, centre, self.head_size, dtype)
            key_BHSK = key_BHSK / xpos_scales(keys, centre, self.head_size, dtype)
        return query_BHLK, key_BHSK, bias_BHLS

    def _heads(self, states_BLD: Tensor) -> Tensor:
        # `view` and not `unflatten`, whose Python costs as much as a small product when single tokens are decoded
        return states_BLD.view(*states_BLD.shape[:-1], -1, self.head_size).transpose(1, 2)
