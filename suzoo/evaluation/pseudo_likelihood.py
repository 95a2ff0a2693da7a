"""Pseudo-log-likelihood of a masked language model, exactly: one masked copy of the text per token.

Source: Salazar et al., "Masked Language Model Scoring" (2020). It is what the one pass of T-TA is measured against.
Shapes: B texts, L tokens, N masked copies.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel


@torch.no_grad()
def masked_log_likelihoods(
    model: PreTrainedModel, inputs: Mapping[str, Tensor], scored_BL: Tensor, *, mask_token_id: int, batch_size: int = 64
) -> Tensor:
    """log p(token | all other tokens) for every token to be scored.

    The pseudo-log-likelihood of a text is the sum over its row; `perplexity` of the negative sums and the numbers of
    scored tokens is the pseudo-perplexity.

    Args:
        model: any masked language model of transformers, in eval mode: called with `inputs`, it returns `logits`.
        inputs: what the tokenizer returned, tensors (B, L) with `input_ids` among them.
        scored_BL: (B, L) bool; leave out padding, and [CLS] and [SEP] unless they shall count.
        mask_token_id: what takes the place of a token.
        batch_size: masked copies per forward; 1 is the sequential form.

    Returns:
        (B, L) float32, exactly 0 where not scored.

    Raises:
        ValueError: the model is in training mode, shapes differ, batch_size is below 1, or the model has no such token.
    """
    input_ids_BL = inputs["input_ids"]
    if model.training:
        raise ValueError("the model is in training mode: its dropout would be scored too; call model.eval()")
    if scored_BL.shape != input_ids_BL.shape or scored_BL.dtype != torch.bool:
        raise ValueError(
            f"scored must be bool {(*input_ids_BL.shape,)} like input_ids, not {scored_BL.dtype} {(*scored_BL.shape,)}"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
    num_tokens = model.config.vocab_size
    if not 0 <= mask_token_id < num_tokens:
        raise ValueError(f"mask_token_id {mask_token_id} is outside the model's {num_tokens} tokens: was it cut off?")
    result_BL = torch.zeros(input_ids_BL.shape, dtype=torch.float32, device=input_ids_BL.device)
    rows, positions = scored_BL.nonzero(as_tuple=True)
    for rows_N, positions_N in zip(rows.split(batch_size), positions.split(batch_size), strict=True):
        if not len(rows_N):  # nothing to score at all
            continue
        copies = {name: tensor[rows_N] for name, tensor in inputs.items()}  # indexing copies
        one_each_N = torch.arange(len(rows_N), device=rows_N.device)
        tokens_N = copies["input_ids"][one_each_N, positions_N]
        copies["input_ids"][one_each_N, positions_N] = mask_token_id
        logits_NV = model(**copies).logits[one_each_N, positions_N].float()
        result_BL[rows_N, positions_N] = logits_NV.log_softmax(-1)[one_each_N, tokens_N]
    return result_BL
